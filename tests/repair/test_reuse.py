"""Objects used twice, copies, and what the caller left switched on: none of it shows in the weights."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import mithridate as mi
from mithridate.errors import DefenseError, ModelError
from mithridate.models.activation_sums import input_grams, input_norms
from mithridate.models.adapter_layers import linear_layers
from mithridate.models.batches import batches
from mithridate.models.merged_weights import MergedWeights
from mithridate.models.tokenization import tokenize
from mithridate.models.undo import overwrite, undone, undone_on_failure
from mithridate.repair.budgets import RowLosses
from mithridate.repair.repairable import differentiable, repairable
from mithridate.training.scoring import Likelihood
from tests.helpers import tiny
from tests.helpers.adapters import Everything, adapted, filled, lived_in, stored
from tests.helpers.gradients import weighted_gradient
from tests.helpers.origins import everything, shaken

pytestmark = pytest.mark.usefixtures("short_openings")

GIVEN = everything(4) | {"user": list(tiny.rows("user", 4)), "safe": list(tiny.rows("safe", 12))}
REPAIRS = {
    "antidote": mi.Antidote(mask_ratio=0.3),
    "antidote delta": mi.Antidote(mask_ratio=0.3, scope="delta"),
    "antidote auto": mi.Antidote(strength="auto", budget=5.0, safe_budget=5.0),
    "panacea": mi.Panacea(radius=1.0),
    "panacea auto": mi.Panacea(strength="auto", budget=5.0, safe_budget=5.0),
    "random": mi.RandomPerturbation(radius=1.0),
    "wise_ft": mi.WiSEFT(),
    "resta": mi.RESTA(drop=0.3),
    "lox": mi.LoX(),
    "safe_lora": mi.SafeLoRA(layers=3),
    "safe_delta": mi.SafeDelta(scale=0.5),
    "realign": mi.Realign(learning_rate=1e-3),
    "realign auto": mi.Realign(rows="auto", learning_rate=1e-3, budget=5.0, safe_budget=5.0, inner="booster"),
}
SEARCHES = ("antidote auto", "panacea auto", "realign auto")


def searches_are_slow(slow: tuple[str, ...]) -> list[Any]:
    """All repairs as parameters of a test, some of those that search marked as slow."""
    marks = {name: [pytest.mark.slow] if name in slow else [] for name in REPAIRS}
    return [pytest.param(repair, id=name, marks=marks[name]) for name, repair in REPAIRS.items()]


# Panacea's search stands for Antidote's, which takes longer; realigning trains for many sizes.
every_repair = pytest.mark.parametrize("repair", searches_are_slow(("antidote auto", "realign auto")))
measuring = pytest.mark.parametrize(
    "repair", [one for one in searches_are_slow(("antidote auto",)) if not str(one.id).startswith("realign")]
)
"""All but those that train, and do so with the model's dropout."""


def _repaired(repair, model):
    return repair.repair(model, tiny.tokenizer(), **GIVEN)


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def _with_dropout(rate):
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], lora_dropout=rate)
    return filled(get_peft_model(tiny.model(), config)).train()


@measuring
def test_dropout_and_training_mode_do_not_show(repair):
    ends = []
    for model in (_with_dropout(0.5), _with_dropout(0.5), _with_dropout(0.0), _with_dropout(0.5).eval()):
        torch.manual_seed(len(ends))
        _repaired(repair, model)
        ends.append(stored(model))
    assert all(_same(ends[0], end) for end in ends[1:])


@every_repair
def test_an_object_keeps_nothing_of_the_models_it_repaired(repair):
    """The same object on one model, on another, and on the first kind again, against fresh objects."""
    used, settings = repair, repair.model_dump_json()
    for make in (lambda: adapted(tiny.model()), lambda: adapted(shaken(tiny.model(), 4, 0.1), ["o_proj"])) * 2:
        mine, fresh = make(), make()
        one = _repaired(used, mine)
        other = _repaired(type(repair)(**repair.model_dump(exclude_unset=True)), fresh)
        assert _same(stored(mine), stored(fresh))
        assert one.model_dump() == other.model_dump()
    assert used.model_dump_json() == settings
    assert used.__pydantic_private__ in (None, {})


@every_repair
def test_a_second_repair_starts_from_the_once_repaired_model(repair):
    """As if that model had been saved, loaded and repaired by somebody else."""
    model = adapted(tiny.model())
    _repaired(repair, model)
    once = stored(model)
    fresh = adapted(tiny.model())
    fresh.load_state_dict(once, strict=False)
    outcomes = []
    for again in (model, fresh):
        try:
            outcomes.append(_repaired(repair, again))
        except DefenseError as error:
            outcomes.append(str(error))
    assert _same(stored(model), stored(fresh))
    if isinstance(outcomes[0], str):
        assert outcomes[0] == outcomes[1]
        return
    assert outcomes[0].model_dump() == outcomes[1].model_dump()
    if outcomes[0].displacement is not None:
        outcomes[0].displacement.apply(model, 0.0)
        assert _same(stored(model), once)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
@pytest.mark.parametrize("repair", searches_are_slow(SEARCHES))
def test_modes_around_a_repair_do_not_show(repair, mode):
    model, plain = adapted(tiny.model()), adapted(tiny.model())
    _repaired(repair, plain)
    with mode():
        _repaired(repair, model)
    assert _same(stored(model), stored(plain))
    assert not any(parameter.is_inference() for parameter in model.parameters())


def test_a_model_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = tiny.model()
    with pytest.raises(ModelError, match=r"made inside torch\.inference_mode"):
        _repaired(mi.RandomPerturbation(radius=1.0), model)


def test_gradients_are_taken_without_dropout_and_flags_come_back():
    model = lived_in(_with_dropout(0.5))
    weights, record = repairable(model), Everything(model)
    rows = tokenize(GIVEN["harmful"], tiny.tokenizer())
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with differentiable(model, weights), torch.random.fork_rng():
            assert not any(module.training for module in model.modules())
            assert [n for n, p in model.named_parameters() if p.requires_grad] == weights.names
            found.append(weighted_gradient(Likelihood(model, weights), batches(rows, 4, 0, "cpu")))
    assert found[0].norm() > 0
    assert (found[0] - found[1]).norm() == 0
    torch.set_rng_state(torch.frombuffer(bytearray(record.taken["random state"]), dtype=torch.uint8))
    assert record.changes() == []


def test_losses_and_activations_give_every_module_its_own_mode_back():
    model = lived_in(_with_dropout(0.5))
    rows = tokenize(GIVEN["harmful"], tiny.tokenizer())
    losses = RowLosses(model, repairable(model), rows, 3)
    record = Everything(model)
    assert torch.equal(losses(), losses())
    assert record.changes() == []
    layers = linear_layers(model)
    for measure in (input_norms, input_grams):
        one, two = measure(model, layers, rows), measure(model, layers, rows)
        assert all(torch.equal(one[n], two[n]) for n in one)
        assert record.changes() == []


def test_modes_come_back_after_a_failure_too():
    model = lived_in(_with_dropout(0.5))
    record = Everything(model)
    with pytest.raises(KeyError), differentiable(model, repairable(model)):
        raise KeyError
    assert record.changes() == []
    broken = model.get_base_model().model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    record = Everything(model)
    rows = tokenize(GIVEN["harmful"], tiny.tokenizer())
    with pytest.raises(ZeroDivisionError):
        input_norms(model, linear_layers(model), rows)
    with pytest.raises(ZeroDivisionError):
        RowLosses(model, repairable(model), rows, 3)()
    assert record.changes() == []
    broken.remove()


def _overwrite_and_fail(writes):
    with undone_on_failure():
        for tensor, value in writes:
            with undone_on_failure():
                overwrite(tensor, torch.full_like(tensor, value))
        assert [float(tensor[-1]) for tensor, _ in writes[-1:]] == [writes[-1][1]]
        raise KeyError


def test_weights_that_share_memory_come_back():
    """The last overwritten is put back first; a block inside another one undoes its own part alone."""
    memory = torch.arange(6.0)
    left, right = memory[:4], memory[2:]
    with undone():
        overwrite(left, torch.zeros(4))
        overwrite(right, torch.ones(4))
        with pytest.raises(KeyError):
            _overwrite_and_fail([(left, 9.0), (right, 8.0), (left, 7.0)])
        assert memory.tolist() == [0, 0, 1, 1, 1, 1]
    assert memory.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_block_that_ends_well_undoes_nothing():
    tensor = torch.zeros(2)
    with undone_on_failure():
        overwrite(tensor, torch.ones(2))
    assert tensor.tolist() == [1, 1]


def test_an_activation_that_never_came_is_told_with_its_reasons():
    model = adapted(tiny.model())
    causal = model.get_base_model()
    other = copy.deepcopy(causal)
    causal.forward = other.forward
    before = stored(model)
    with pytest.raises(DefenseError, match=r"merged or disabled .* or the model's forward was replaced"):
        _repaired(mi.Antidote(mask_ratio=0.3), model)
    assert _same(stored(model), before)


def test_ties_stay_tied():
    model = shaken(tiny.model(), 1, 0.01)
    model.lm_head.weight = model.model.embed_tokens.weight
    aligned = tiny.model()
    aligned.lm_head.weight = aligned.model.embed_tokens.weight
    for repair in (mi.Panacea(radius=1.0), mi.WiSEFT()):
        repair.repair(model, tiny.tokenizer(), **GIVEN | {"aligned": aligned})
        assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in MergedWeights(model).names
