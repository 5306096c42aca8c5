"""SaLoRA: where the adapter starts, what it cannot write into, and what is saved."""

import pytest
import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file

from mithridate.defenses.salora import SaLoRA
from mithridate.errors import DefenseError
from mithridate.models.batches import batches
from mithridate.models.tokenization import tokenize
from mithridate.training.gradient import Gradient
from mithridate.training.row_stream import Stream
from mithridate.training.scoring import Likelihood
from mithridate.training.state import load_state, save_state
from mithridate.training.step import Step
from mithridate.training.step_rows import Clock
from mithridate.training.trainable import Weights
from tests.helpers import tiny
from tests.helpers.training import distance, run, trainer

RANK, DIRECTIONS, SAFE_ROWS, TASK_RANK = 4, 2, 8, 5
SETTINGS = {"directions": DIRECTIONS, "rows": SAFE_ROWS, "task_rank": TASK_RANK}
USER = tokenize(tiny.rows("user", 4), tiny.tokenizer())
SAFE = tokenize(tiny.rows("safe", 12), tiny.tokenizer())


def _adapted():
    return get_peft_model(tiny.model(), tiny.lora(RANK))


def _step(model, number=0, memory=None):
    return Step(
        main="user", micro_batches=list(batches(USER, 3, 0)), likelihood=Likelihood(model, Weights(model)),
        streams={"safe": Stream(SAFE, 4, 0)}, refusals=[], micro_batch_size=3, pad_token_id=0,
        clock=Clock(number, 10, 0, len(USER)), memory=memory,
    )  # fmt: skip


def _started(model, defense):
    step = _step(model)
    defense.start(step)
    return step


def _learned(model, defense, steps=3):
    """A few steps along the signs, as Adam's first; plain gradient steps would never leave the projected B."""
    memory = _started(model, defense).memory
    for number in range(steps):
        step = _step(model, number, memory)
        step.weights.add(Gradient([-0.02 * tensor.sign() for tensor in defense.gradient(step).tensors]))
    return Weights(model), memory


@torch.no_grad()
def _logits(model):
    return torch.cat([model(input_ids=torch.tensor([example.input_ids])).logits[0] for example in [*USER, *SAFE]])


@torch.no_grad()
def _directions(rows, number):
    """Top left singular vectors of W·X and W for every adapted layer, one row at a time on the bare model."""
    model, inputs = tiny.model().double(), {}
    targets = {n: m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in ("q_proj", "v_proj", "down_proj")}
    for name, module in targets.items():
        module.register_forward_hook(lambda _, x, y, name=name: inputs.setdefault(name, []).append(x[0][0]))
    for example in rows:
        model(input_ids=torch.tensor([example.input_ids]))
    found = {}
    for name, module in targets.items():
        outputs = module.weight @ torch.cat(inputs[name]).T
        found[name] = torch.linalg.svd(outputs)[0][:, :number], module.weight
    return found


def _factors(weights, which):
    """The adapter's factors by layer, in float64."""
    return {
        name.removeprefix("base_model.model.").split(f".{which}.")[0]: tensor.detach().double()
        for name, tensor in weights.items()
        if f".{which}." in name
    }


def test_before_the_first_step_the_model_is_unchanged():
    model = _adapted()
    before = _logits(model)
    defense = SaLoRA(**SETTINGS)
    with defense.applied(model, _started(model, defense).memory):
        assert torch.equal(before, _logits(model))


def test_a_starts_on_the_task_directions():
    model = _adapted()
    _started(model, SaLoRA(**SETTINGS))
    found = _factors(dict(model.named_parameters()), "lora_A")
    for name, (span, weight) in _directions(USER, TASK_RANK).items():
        expected = torch.linalg.svd(span @ (span.T @ weight))[2][:RANK]
        overlaps = found[name] @ expected.T
        torch.testing.assert_close(overlaps.abs(), torch.eye(RANK).double(), atol=1e-4, rtol=0)
        largest = found[name].gather(1, found[name].abs().argmax(dim=1, keepdim=True))
        assert (largest > 0).all(), "the sign of a singular vector must not be left to chance"


def test_task_rank_zero_leaves_a_as_it_is():
    model = _adapted()
    before = _factors({n: p.clone() for n, p in model.named_parameters()}, "lora_A")
    SaLoRA(directions=DIRECTIONS, rows=SAFE_ROWS, task_rank=0).start(_step(model))
    assert distance(before, _factors(dict(model.named_parameters()), "lora_A")) == 0


def test_what_was_tuned_writes_nothing_into_the_safe_directions():
    plain, kept = (run(name, settings, max_steps=12) for name, settings in (("sft", {}), ("salora", SETTINGS)))
    safe = tokenize(tiny.rows("safe"), tiny.tokenizer())[:SAFE_ROWS]
    ours, theirs = _factors(kept.weights, "lora_B"), _factors(plain.weights, "lora_B")
    for name, (span, _) in _directions(safe, DIRECTIONS).items():
        assert float((span.T @ ours[name]).norm()) <= 1e-4 * float(ours[name].norm())
        assert float((span.T @ theirs[name]).norm()) >= 1e-2 * float(theirs[name].norm()), "plain SFT wrote nothing"


def test_in_training_the_model_is_the_projected_one(tmp_path):
    """Through the projection, after it was written into B, and loaded as an ordinary adapter: the same logits."""
    model, defense = _adapted(), SaLoRA(**SETTINGS)
    weights, memory = _learned(model, defense)
    with defense.applied(model, memory):
        projected = _logits(model)
    unprojected = {n: p.detach().clone() for n, p in model.named_parameters()}
    figures = defense.finish(weights, memory).figures
    taken = torch.stack([(p - unprojected[n]).detach().double().norm() for n, p in model.named_parameters()]).norm()
    assert taken > 1e-3, "there was nothing to project"
    assert figures["removed_norm"] == pytest.approx(float(taken), rel=1e-4)
    torch.testing.assert_close(_logits(model), projected, atol=1e-5, rtol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.model(), tmp_path)
    torch.testing.assert_close(_logits(loaded), projected, atol=1e-5, rtol=1e-5)
    assert float((projected - _logits(tiny.model())).abs().max()) > 1e-2, "nothing was learned"


def test_finishing_twice_changes_nothing_more():
    model, defense = _adapted(), SaLoRA(**SETTINGS)
    weights, memory = _learned(model, defense)
    defense.finish(weights, memory)
    once = weights.snapshot()
    defense.finish(weights, memory)
    for before, after in zip(once, weights.parameters, strict=True):
        torch.testing.assert_close(after, before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS | {"directions": 0}], ids=["projected", "start-only"])
def test_what_was_measured_survives_saving_to_the_bit(settings, tmp_path):
    model, defense = _adapted(), SaLoRA(**settings)
    _, memory = _learned(model, defense)
    save_state(tmp_path, memory)
    expected = defense.gradient(_step(model, 3, memory))
    resumed = SaLoRA(**settings).gradient(_step(model, 3, load_state(tmp_path)))
    for ours, theirs in zip(resumed.tensors, expected.tensors, strict=True):
        assert torch.equal(ours, theirs)


def test_evaluation_between_steps_runs_the_projected_model(tmp_path):
    shape = {"max_steps": 6, "save_strategy": "steps", "save_steps": 6}
    made = trainer(SaLoRA(**SETTINGS), tmp_path, extra={"eval_dataset": tiny.rows("user", 8)}, **shape)
    made.train()
    finished = made.evaluate()["eval_loss"]
    # What a checkpoint goes on with: B before the projection is written into it.
    unfinished = load_file(tmp_path / "checkpoint-6" / "adapter_model.safetensors")
    set_peft_model_state_dict(made.model, unfinished)
    assert made.evaluate()["eval_loss"] == pytest.approx(finished, abs=1e-5)
    made.memory.clear()
    assert abs(made.evaluate()["eval_loss"] - finished) > 1e-3, "there was nothing to project"


def test_a_bf16_adapter_is_projected_at_the_end():
    model, defense = _adapted(), SaLoRA(**SETTINGS | {"task_rank": 0})
    weights, memory = _learned(model, defense)
    model.to(torch.bfloat16)
    defense.finish(weights, memory)
    for name, (span, _) in _directions(SAFE[:SAFE_ROWS], DIRECTIONS).items():
        factor = _factors(dict(model.named_parameters()), "lora_B")[name]
        assert float((span.T @ factor).norm()) <= 2**-7 * float(factor.norm())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"directions": 8}, "leave nothing to tune"),
        ({"rows": 13}, "12 rows, but 13 are needed"),
        ({"task_rank": RANK - 1}, "at least the adapter's rank 4"),
        ({"task_rank": 8}, "below the 8 outputs"),
    ],
)
def test_settings_that_do_not_fit_the_model_stop_the_run(settings, message):
    with pytest.raises(DefenseError, match=message):
        SaLoRA(**SETTINGS | settings).start(_step(_adapted()))


def test_a_used_adapter_stops_the_run():
    model = _adapted()
    _learned(model, SaLoRA(directions=0, task_rank=0), 1)
    with pytest.raises(DefenseError, match="needs a fresh adapter"):
        SaLoRA(**SETTINGS).start(_step(model))


def test_without_an_adapter_the_run_stops(tmp_path):
    made = trainer(SaLoRA(**SETTINGS), tmp_path, full=True, max_steps=1)
    with pytest.raises(DefenseError, match="pass peft_config"):
        made.train()
