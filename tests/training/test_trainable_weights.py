"""Weights: chosen by name, moved and put back bit for bit."""

import signal

import pytest
import torch

from mithridate.errors import DefenseError
from mithridate.training.gradient import Gradient
from mithridate.training.trainable_weights import Weights
from tests.helpers import tiny


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fails", [False, True])
def test_moved_puts_every_bit_back(dtype, fails):
    weights = Weights(tiny.model().to(dtype))
    torch.manual_seed(1)
    push = Gradient([torch.randn_like(p) * 0.013 for p in weights.parameters])
    before = weights.snapshot()
    with pytest.raises(KeyError) if fails else torch.no_grad(), weights.moved(push):
        inside = weights.snapshot()
        if fails:
            raise KeyError("inside")
    assert not any(torch.equal(a, b) for a, b in zip(inside, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights.parameters, before, strict=True))
    subtracted = [a - b for a, b in zip(inside, push.tensors, strict=True)]
    assert not all(torch.equal(a, b) for a, b in zip(subtracted, before, strict=True)), "subtracting would do"


def test_what_moved_is_counted_and_measured_as_stored():
    weights = Weights(tiny.model().to(torch.bfloat16))
    before = weights.snapshot()
    with weights.kept():
        weights.add(Gradient([torch.full_like(p, 1e-4, dtype=torch.float32) for p in weights.parameters]))
        moved, after = weights.moved_since(before), weights.snapshot()
    assert weights.moved_since(before) == (0, 0.0)
    pairs = list(zip(before, after, strict=True))
    assert moved.weights == sum(int((a != b).sum()) for a, b in pairs) > 0
    assert moved.weights < sum(p.numel() for p in before)
    square = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    assert moved.distance == pytest.approx(square**0.5)


def test_a_displacement_of_a_wrong_shape_leaves_the_weights():
    weights = Weights(tiny.model())
    before = weights.snapshot()
    for wrong in ([torch.ones(7) for _ in before], [torch.ones_like(p) for p in before[1:]]):
        for made in (Gradient(wrong), 2.0 * Gradient.reading(wrong)):
            with pytest.raises(DefenseError, match="over different weights"), weights.moved(made):
                pass
    assert all(torch.equal(a, b) for a, b in zip(weights.parameters, before, strict=True))


def test_only_trainable_weights_are_taken():
    model = tiny.model()
    model.requires_grad_(False)
    with pytest.raises(DefenseError, match="no trainable weights"):
        Weights(model)
    model.lm_head.weight.requires_grad_(True)
    assert Weights(model).names == ["lm_head.weight"]
    assert Weights(model, ["model.norm.weight"]).names == ["model.norm.weight"]


def test_a_parameter_that_took_no_part_has_a_zero_gradient():
    model = tiny.model()
    weights = Weights(model)
    model.lm_head.weight.sum().backward()
    grads = dict(zip(weights.names, weights.take_grad(), strict=True))
    assert float(grads["lm_head.weight"].sum()) == model.lm_head.weight.numel()
    assert not grads["model.norm.weight"].any()
    assert all(p.grad is None for p in weights.parameters)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scaled_gradients_are_rounded_once(dtype):
    """By a factor that half precision does not hold: 1/3 in bfloat16 is 0.2 % too large."""
    weights = Weights(tiny.model().to(dtype))
    weights.clear_grad()
    torch.manual_seed(1)
    for parameter in weights.parameters[1:]:
        parameter.grad = torch.randn_like(parameter)
    before = [p.grad.float() for p in weights.parameters[1:]]
    weights.scale_grad(1 / 3)
    assert weights.parameters[0].grad is None
    for parameter, grad in zip(weights.parameters[1:], before, strict=True):
        assert torch.equal(parameter.grad, (grad / 3).to(dtype))


@pytest.mark.parametrize("fails", [False, True])
def test_at_the_start_both_values_survive_whatever_happens(fails):
    weights = Weights(tiny.model())
    weights.start = weights.snapshot()
    torch.manual_seed(1)
    weights.add(Gradient([torch.randn_like(p) for p in weights.parameters]))
    start, now = [t.clone() for t in weights.start], weights.snapshot()
    with pytest.raises(KeyError) if fails else torch.enable_grad(), weights.at_start():
        assert all(torch.equal(a, b) for a, b in zip(weights.parameters, start, strict=True))
        assert not torch.is_grad_enabled()
        if fails:
            raise KeyError("inside")
    assert all(torch.equal(a, b) for a, b in zip(weights.parameters, now, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights.start, start, strict=True))


@pytest.fixture
def heard():
    """Ctrl-C is heard, also where the tests run in the background, whose processes a shell makes deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("at", [1, 4, 7])
def test_an_interrupt_while_the_weights_are_exchanged_loses_none(at, monkeypatch):
    weights = Weights(tiny.model())
    weights.start = weights.snapshot()
    weights.add(Gradient([torch.full_like(p, 0.1) for p in weights.parameters]))
    start, now = [t.clone() for t in weights.start], weights.snapshot()
    copy, calls = torch.Tensor.copy_, []

    def interrupted(self, *given):
        copy(self, *given)
        calls.append(self)
        # Between the two copies of an exchange, on the way there and on the way back.
        if len(calls) == (at if at < 7 else 2 * len(start) + at):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(torch.Tensor, "copy_", interrupted)
    with pytest.raises(KeyboardInterrupt), weights.at_start():
        pass
    monkeypatch.undo()
    assert all(torch.equal(a, b) for a, b in zip(weights.parameters, now, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights.start, start, strict=True))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_at_the_start_there_is_no_other_start():
    weights = Weights(tiny.model())
    weights.start = weights.snapshot()
    with weights.at_start(), pytest.raises(DefenseError, match="one at_start block at a time"), weights.at_start():
        pass
    assert weights.has_start


def test_a_start_in_another_type_rounds_nothing_away():
    """Float32 stands in for half precision where a defense asks for it, and the start is as the weights are stored."""
    weights = Weights(tiny.model())
    start = [p.detach().bfloat16() for p in weights.parameters]
    weights.start = start
    weights.add(Gradient([torch.full_like(p, 1e-5) for p in weights.parameters]))
    now = weights.snapshot()
    with weights.at_start():
        assert all(torch.equal(a, b.float()) for a, b in zip(weights.parameters, start, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights.parameters, now, strict=True))
    assert all(a.dtype is torch.bfloat16 for a in weights.start)
