"""Half-precision weights and autocast: differences of gradients, displacements, and what is reported."""

import math

import pytest
import torch

from mithridate.defenses.booster import Booster
from mithridate.defenses.panacea import PanaceaTuning
from mithridate.defenses.safegrad import SafeGrad
from mithridate.errors import DefenseError
from mithridate.models.batches import batches
from mithridate.models.modes import in_float32
from mithridate.models.tokenization import tokenize
from mithridate.training.gradient import Gradient
from mithridate.training.processes import Processes
from mithridate.training.row_stream import Stream
from mithridate.training.scoring import Likelihood
from mithridate.training.step import Step
from mithridate.training.trainable_weights import Weights
from tests.helpers import tiny
from tests.helpers.gradients import weighted_gradient
from tests.helpers.training import trainer

SAFE, HARMFUL = (tokenize(tiny.rows(kind, 8), tiny.tokenizer()) for kind in ("safe", "harmful"))


def _autocast():
    return torch.autocast("cpu", torch.bfloat16)


def _model(dtype):
    """The same weights, representable in bfloat16, stored in another type."""
    return tiny.model().to(torch.bfloat16).to(dtype)


def _step(dtype, autocast=None, exact=True, main="safe"):
    model = _model(dtype)
    options = {"autocast": autocast} if autocast else {}
    return Step(
        main=main, micro_batches=list(batches(SAFE, 4, 0)), refusals=[],
        streams={"harmful": Stream(HARMFUL, 8, 0), "safe": Stream(SAFE, 8, 0)},
        likelihood=Likelihood(model, Weights(model), exact_differences=exact, **options), micro_batch_size=4,
        pad_token_id=0,
    )  # fmt: skip


def _flat(gradient):
    return torch.cat([tensor.double().reshape(-1) for tensor in gradient.tensors])


def _extra(step, radius):
    gradient = Booster(radius=radius, strength=1.0).gradient(step)
    return _flat(gradient) - _flat(step.gradient("safe"))


def _cosine(first, second):
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


@pytest.mark.parametrize("radius", [0.1, 0.01])
@pytest.mark.parametrize("half", [{"dtype": torch.bfloat16}, {"dtype": torch.float32, "autocast": _autocast}],
                         ids=["weights", "autocast"])  # fmt: skip
def test_the_difference_of_gradients_is_float32s(half, radius):
    expected, found = _extra(_step(torch.float32), radius), _extra(_step(**half), radius)
    assert _cosine(found, expected) > 0.999
    assert float(found.norm() / expected.norm()) == pytest.approx(1, abs=0.01)


def test_without_exact_differences_autocast_rounds_them():
    """What the setting buys, and that the test above could fail."""
    expected = _extra(_step(torch.float32), 0.01)
    assert _cosine(_extra(_step(torch.float32, _autocast, exact=False), 0.01), expected) < 0.95


def test_an_alignment_gradient_after_a_small_move_is_float32s():
    """KL is the square of the move: in half precision nothing but rounding is left of it."""
    found = []
    for half in ({"dtype": torch.float32}, {"dtype": torch.float32, "autocast": _autocast}):
        step = _step(**half, main="user")
        step.weights.start = step.weights.snapshot()
        torch.manual_seed(3)
        step.weights.add(1e-3 * Gradient([torch.randn_like(p) * p.abs() for p in step.weights.parameters]))
        whole = SafeGrad(strength=1.0, project=False).gradient(step)
        found.append(_flat(whole - step.gradient("user")))
    assert _cosine(*found) > 0.999


class _BesideALikelierRow(Processes):
    """Another process has a row of three times the weight, and nothing of its gradient arrives here."""

    def largest(self, value):
        return value + math.log(3)

    def sum_all(self, tensors):
        pass

    def total(self, value):
        return value


def test_bringing_half_precision_gradients_to_a_common_scale_keeps_their_size():
    model = tiny.model().to(torch.bfloat16)
    alone, beside = Likelihood(model, Weights(model)), _BesideALikelierRow(count=2)
    rows = tokenize(tiny.rows("harmful", 4), tiny.tokenizer())
    norms = [
        weighted_gradient(likelihood, batches(rows, 4, 0)).norm()
        for likelihood in (alone, Likelihood(model, Weights(model), processes=beside))
    ]
    # A single product is off by 0.4 % at most, up or down; a factor of 1/3 in bfloat16 raises all of them by 0.2 %.
    assert norms[1] == pytest.approx(norms[0], rel=3e-4)


def test_half_precision_weights_come_back_bit_for_bit():
    step = _step(torch.bfloat16)
    model = step.model
    before = dict(model.named_parameters())
    values = {n: p.detach().clone() for n, p in before.items()}

    def failing():
        with step.precise():
            harm = step.gradient("harmful")
            assert all(tensor.dtype is torch.float32 for tensor in harm.tensors)
            with step.moved(harm):
                assert any((p != values[n]).any() for n, p in model.named_parameters())
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
        assert torch.equal(parameter, values[name])
    assert [id(p) for p in step.weights.parameters] == [id(p) for p in before.values()]


def test_displacing_half_precision_weights_is_refused_where_it_would_round_away():
    step = _step(torch.bfloat16)
    harm = step.gradient("harmful")
    with pytest.raises(DefenseError, match=r"with step\.precise"), step.moved(harm):
        pass


def test_tied_weights_stay_tied_and_quantized_ones_as_they_are():
    model = tiny.model().to(torch.bfloat16)
    model.lm_head.weight = model.model.embed_tokens.weight
    model.register_parameter("packed", torch.nn.Parameter(torch.ones(2, dtype=torch.uint8), requires_grad=False))
    packed = model.packed
    with in_float32(model):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert model.lm_head.weight.dtype is torch.float32
        assert model.packed is packed
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.dtype is torch.bfloat16


@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "both"])
def test_a_training_of_half_precision_weights_moves_them(autocast, tmp_path):
    model = tiny.model().to(torch.bfloat16)
    made = trainer(
        Booster(), tmp_path, full=True, max_steps=2, bf16=autocast, learning_rate=0.05, extra={"model": model}
    )
    made.train()
    assert all(p.dtype is torch.bfloat16 for p in made.model.parameters())
    assert made.state.log_history[0]["extra_gradient_norm"] > 0


def test_what_panacea_moved_is_reported_as_it_is_stored(tmp_path):
    """Of a small ε most entries round away in bfloat16."""
    made = trainer(
        PanaceaTuning(radius=0.05), tmp_path, full=True, max_steps=2, extra={"model": tiny.model().to(torch.bfloat16)}
    )
    made.train()
    pairs = list(zip(made.displacement.base, made.model.parameters(), strict=True))
    moved = sum(int((base != now).sum()) for base, now in pairs)
    distance = sum(float((base.double() - now.detach().double()).square().sum()) for base, now in pairs) ** 0.5
    assert made.finished["weights_moved"] == moved
    assert 0 < moved < sum(p.numel() for p in made.model.parameters()) / 2
    assert made.finished["moved_distance"] == made.finished["displacement_norm"] == pytest.approx(distance)
    assert made.displacement.epsilon.norm() == pytest.approx(0.05, rel=1e-3)


def test_an_epsilon_that_rounds_away_wholly_stops_the_run(tmp_path):
    made = trainer(
        PanaceaTuning(radius=1e-9), tmp_path, full=True, max_steps=1, extra={"model": tiny.model().to(torch.bfloat16)}
    )
    with pytest.raises(DefenseError, match="lost in the rounding"):
        made.train()
