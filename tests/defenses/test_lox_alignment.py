"""LoX before fine-tuning, on the adapters and weights of real runs."""

import pytest
import torch
from peft import get_peft_model

from mithridate.defenses.lox import LoXAlignment
from mithridate.errors import DefenseError
from mithridate.training.step_rows import Memory
from mithridate.training.trainable import Weights
from mithridate.training.trainer import DefendedTrainer
from tests.helpers import tiny
from tests.helpers.slow_llama import BLOCK_LINEARS
from tests.helpers.training import distance, run, streams

STEPS = 12
RANK = 4  # of tiny.lora()


def _factors(weights):
    return {name: (weights[name], weights[name.replace("lora_B", "lora_A")]) for name in weights if "lora_B" in name}


def test_with_all_directions_every_update_is_stretched():
    plain, stretched = (run(*chosen, max_steps=STEPS) for chosen in (("sft",), ("lox_alignment", {"strength": 0.5})))
    for name, (b, a) in _factors(plain.weights).items():
        torch.testing.assert_close(stretched.weights[name], 1.5 * b, atol=1e-6, rtol=1e-5)
        assert torch.equal(stretched.weights[name.replace("lora_B", "lora_A")], a)
        assert b.abs().max() > 1e-3


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_only_the_main_directions_of_an_adapter_are_stretched(rank):
    plain, stretched = (
        run("sft", max_steps=STEPS),
        run("lox_alignment", {"strength": 2.0, "rank": rank}, max_steps=STEPS),
    )
    for name, (b, a) in _factors(plain.weights).items():
        new_b, new_a = _factors(stretched.weights)[name]
        sizes, new_sizes = (torch.linalg.svdvals((x @ y).double())[:RANK] for x, y in ((b, a), (new_b, new_a)))
        expected = torch.where(torch.arange(RANK) < rank, 3 * sizes, sizes)
        torch.testing.assert_close(new_sizes, expected, atol=1e-5, rtol=1e-4)
        assert sizes[rank] > 1e-3, "nothing was left to keep"


def test_of_whole_weights_only_block_matrices_are_extrapolated():
    plain, stretched = (run(*chosen, full=True, max_steps=STEPS) for chosen in (("sft",), ("lox_alignment",)))
    for name, weight in plain.weights.items():
        moved = not torch.equal(weight, stretched.weights[name])
        assert moved == any(name.endswith(f"{linear}.weight") for linear in BLOCK_LINEARS), name


def _continued(defense, folder):
    """A second training of an adapter that has been trained."""
    model = get_peft_model(tiny.model(), tiny.lora())
    model.load_state_dict(run("sft", max_steps=STEPS).weights, strict=False)
    return DefendedTrainer(
        model, defense=defense, args=tiny.config(folder, max_steps=2), train_dataset=tiny.rows("user"),
        processing_class=tiny.tokenizer(), **streams(),
    )  # fmt: skip


def test_an_adapter_that_has_been_trained_is_refused_before_the_first_step(tmp_path):
    made = _continued(LoXAlignment(), tmp_path)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    with pytest.raises(DefenseError, match="adapter: fresh"):
        made.train()
    assert distance(before, dict(made.model.named_parameters())) == 0


def test_switched_off_such_an_adapter_trains_on(tmp_path):
    made = _continued(LoXAlignment(strength=0.0), tmp_path)
    made.train()
    assert made.state.global_step == 2


@pytest.mark.parametrize("adapter", ["lora_A", "lora_B", "layers"])
def test_an_adapter_may_be_called_like_a_factor(adapter):
    """The same extrapolation of the same factors under another name."""
    ends = []
    for name in ("default", adapter):
        torch.manual_seed(0)
        model = get_peft_model(tiny.model(), tiny.lora(), name)
        weights = Weights(model)
        weights.start = weights.snapshot()
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in weights.parameters:
                parameter.normal_()
        LoXAlignment(rank=2).finish(weights, Memory())
        ends.append(weights.snapshot())
        assert len(ends[0]) == 12
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
