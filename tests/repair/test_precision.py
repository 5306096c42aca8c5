"""bf16: what moved in fact is reported, doses are tried with the bits that are applied, and rounding happens once."""

import pytest
import torch

import mithridate as mi
from mithridate.errors import DefenseError, MithridateError, ModelError
from mithridate.repair.budgets import RowLosses
from mithridate.repair.displacement import Displacement
from mithridate.training.gradient import Gradient
from tests.helpers import tiny
from tests.helpers.adapters import KINDS, Everything, bits, stored

GIVEN = {"harmful": list(tiny.rows("harmful", 6)), "user": list(tiny.rows("user", 6))}
MOVING = [mi.Panacea(radius=0.01), mi.RandomPerturbation(radius=0.01), mi.RandomPerturbation(std=1e-4)]


def _half(kind="whole, bf16"):
    return KINDS[kind]()


@pytest.mark.parametrize("repair", MOVING, ids=str)
def test_what_moved_is_counted_after_rounding(repair):
    """At this size most of a displacement is below the precision of the weights."""
    model = _half()
    before = stored(model)
    repaired = repair.repair(model, tiny.tokenizer(), **GIVEN)
    moved = {n: p.detach().double() - before[n].double() for n, p in model.named_parameters()}
    entries = sum(p.numel() for p in model.parameters())
    assert 0 < repaired.changed < entries / 2
    assert repaired.changed == sum(int((d != 0).sum()) for d in moved.values())
    distance = sum(float(d.square().sum()) for d in moved.values()) ** 0.5
    assert repaired.distance == pytest.approx(distance, rel=1e-12)
    intended = repaired.activity["intended_distance"]
    assert intended == pytest.approx(repaired.displacement.epsilon.norm() * repaired.displacement.scale, rel=1e-6)
    assert abs(distance / intended - 1) > 0.01


@pytest.mark.parametrize("repair", MOVING, ids=str)
def test_a_displacement_is_rounded_once(repair):
    model = _half()
    repaired = repair.repair(model, tiny.tokenizer(), **GIVEN)
    found, shown = dict(model.named_parameters()), repaired.displacement
    for name, base, epsilon in zip(shown.names, shown.base, shown.epsilon.tensors, strict=True):
        assert epsilon.dtype is torch.float32
        exact = base.double() + shown.scale * epsilon.double()
        assert torch.equal(found[name], exact.to(torch.bfloat16))


@pytest.mark.parametrize(
    "repair", [mi.Panacea(radius=1e-9), mi.RandomPerturbation(radius=1e-9), mi.RandomPerturbation(std=1e-12)], ids=str
)
def test_a_displacement_of_which_nothing_is_left_is_an_error(repair):
    model = _half()
    record = Everything(model)
    with pytest.raises(DefenseError, match=r"changes no weight at the weights' precision; raise the strength"):
        repair.repair(model, tiny.tokenizer(), **GIVEN)
    assert record.changes() == []


@pytest.mark.parametrize("kind", ["whole, bf16", "lora, bf16"])
def test_noise_has_exactly_the_length_of_panacea_s_step(kind):
    lengths = []
    for repair in (mi.Panacea(radius=0.7), mi.RandomPerturbation(radius=0.7)):
        repaired = repair.repair(_half(kind), tiny.tokenizer(), **GIVEN)
        lengths.append(repaired.activity["intended_distance"])
        assert repaired.displacement.epsilon.norm() == pytest.approx(1, abs=1e-6)
    assert lengths == [0.7, 0.7]


def test_noise_is_drawn_in_float32_whatever_the_weights_are():
    """bf16 noise has 256 values to the octave; the same seed gives the same noise at every precision."""
    drawn = []
    for model in (_half(), KINDS["whole"](), KINDS["whole"]().double()):
        repaired = mi.RandomPerturbation(std=1.0, seed=3).repair(model, tiny.tokenizer())
        drawn.append(torch.cat([t.double().reshape(-1) for t in repaired.displacement.epsilon.tensors]))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[0].bfloat16().double())


SEARCHING = [
    mi.Panacea(strength="auto", budget=0.3), mi.WiSEFT(strength="auto", budget=0.3),
    mi.RESTA(strength="auto", budget=0.3), mi.LoX(strength="auto", budget=0.3),
    mi.Antidote(strength="auto", budget=0.3, scope="weights"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["whole, bf16", "lora, bf16"])
@pytest.mark.parametrize("repair", SEARCHING, ids=lambda repair: repair.info.name)
def test_doses_are_tried_with_the_bits_that_are_applied(repair, kind, monkeypatch):
    """The weights under which the chosen dose was measured are those that the repair leaves."""
    plain, model, seen = RowLosses.__call__, _half(kind), []

    def score(losses):
        losses_now = plain(losses)
        seen.append((float(losses_now.mean()), {n: bits(p) for n, p in model.named_parameters()}))
        return losses_now

    monkeypatch.setattr(RowLosses, "__call__", score)
    given = GIVEN | {"harmful": None} if repair.info.references else GIVEN
    aligned, base = tiny.model().bfloat16(), tiny.model(seed=1).bfloat16()
    repaired = repair.repair(model, tiny.tokenizer(), **given, aligned=aligned, base=base)
    curve = repaired.dose_curve
    chosen = next(point for point in curve.points if point.dose == curve.chosen)
    tried = [weights for loss, weights in seen if loss == chosen.user_loss]
    assert {n: bits(p) for n, p in model.named_parameters()} in tried


@pytest.mark.parametrize("kind", ["whole, bf16", "lora, bf16", "dora", "whole, tied head", "saved head"])
def test_scale_zero_gives_the_base_back_also_from_a_file(kind, tmp_path):
    model = KINDS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[:8] = -0.0  # which −0 + 0·ε would turn into 0 wherever ε is positive
    before = {n: bits(p) for n, p in model.named_parameters()}
    repaired = mi.RandomPerturbation(radius=2.0).repair(model, tiny.tokenizer())
    after = {n: bits(p) for n, p in model.named_parameters()}
    repaired.displacement.save(tmp_path / "d.safetensors")
    loaded = Displacement.load(tmp_path / "d.safetensors")
    for displacement in (repaired.displacement, loaded):
        assert displacement.scale == 2.0
        displacement.apply(model, 0.0)
        assert {n: bits(p) for n, p in model.named_parameters()} == before
        displacement.apply(model, 0.5)
        tally = displacement.apply(model, 2.0)
        assert {n: bits(p) for n, p in model.named_parameters()} == after
        assert (tally.changed, tally.distance) == (repaired.changed, repaired.distance)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e300])
def test_a_scale_that_gives_no_number_leaves_every_bit(scale):
    model = _half()
    displacement = mi.RandomPerturbation(radius=1.0).repair(model, tiny.tokenizer()).displacement
    record = Everything(model)
    with pytest.raises(MithridateError, match="NaN or Inf"):
        displacement.apply(model, scale)
    assert record.changes() == []
    assert displacement.scale == 1.0


def test_a_displacement_of_another_shape_is_refused_before_the_first_change():
    """A shape that would broadcast is the dangerous one."""
    model = tiny.model()
    names = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    found = dict(model.named_parameters())
    base = [found[names[0]].detach().clone(), torch.ones(1)]
    record = Everything(model)
    with pytest.raises(ModelError, match=r"'model\.norm\.weight' is not one of its weights, or has another shape"):
        Displacement(names, base, Gradient([torch.ones_like(base[0]), torch.ones(1)])).apply(model, 1.0)
    assert record.changes() == []
