"""Properties of Antibody's two stages that hold for any rows."""

import math
import random
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mithridate.defenses.antibody import AntibodyAlignment, AntibodyTuning
from mithridate.training.gradient import Gradient
from tests.helpers.examples import examples
from tests.matrix.worlds import END, RowIds, Slow, World, pairs, refused

VECTORS = st.lists(st.floats(-5, 5), min_size=4, max_size=4)


def _gradient(values):
    return Gradient([torch.tensor(values, dtype=torch.float64)])


class Scripted:
    """A step whose gradients are given: what the formula does with them is all that counts."""

    def __init__(self, safe, harm, eased, refuse=(0.0,) * 4, memory=None):
        self.given = {"safe": [safe], "harmful": [harm, eased], "refusals": [refuse]}
        self.logs = {}
        self.memory = {} if memory is None else memory

    def gradient(self, stream, completions=None):
        values = self.given[completions or stream]
        return _gradient(values.pop(0))

    def moved(self, displacement):
        self.displacement = displacement
        return torch.no_grad()

    def precise(self):
        return nullcontext()

    def log(self, **figures):
        self.logs.update(figures)


def _norm(values):
    return math.sqrt(sum(v * v for v in values))


@given(VECTORS, VECTORS, VECTORS, st.floats(0, 8))
def test_the_kkt_form_keeps_its_constraint_up_to_the_cap(safe, harm, eased, xi):
    """⟨s, δ⟩ ≥ ξ‖s‖² for δ = a + λs, unless λ stands at the cap."""
    s = [h - e for h, e in zip(harm, eased, strict=True)]
    if _norm(harm) < 1e-3 or _norm(s) < 1e-3:
        return
    step = Scripted(safe, harm, eased)
    defense = AntibodyAlignment(form="kkt", sharpness=xi, refusal=0.0, cap=10.0)
    delta = defense.gradient(step).tensors[0].tolist()
    level = step.logs["lambda_t"]
    assert 0 <= level <= 10
    inner = sum(a * b for a, b in zip(s, delta, strict=True))
    if level < 10:
        assert inner >= xi * _norm(s) ** 2 - 1e-6 * (1 + _norm(s) * _norm(safe))
    if level == 0:
        assert delta == pytest.approx(safe)


@given(st.lists(st.tuples(VECTORS, VECTORS, VECTORS), min_size=1, max_size=5), st.floats(0, 8), st.floats(0, 0.99))
def test_the_cosine_form_stays_within_one_of_its_level(steps, xi, momentum):
    defense, memory = AntibodyAlignment(form="cosine", sharpness=xi, momentum=momentum), {}
    for safe, harm, eased in steps:
        if _norm(harm) < 1e-3:
            continue
        step = Scripted(safe, harm, eased, memory=memory)
        defense.gradient(step)
        assert max(0, xi - 1) - 1e-6 <= step.logs["lambda_t"] <= xi + 1 + 1e-6


def test_the_average_starts_at_its_first_value_and_is_carried_by_the_memory_alone():
    steps = [([1.0, 0, 0, 0], [1.0, 1, 0, 0], [0.0, 1, 0, 0]), ([0.0, 1, 0, 0], [1.0, 1, 0, 0], [0.0, 1, 0, 0])]
    defense, memory, levels = AntibodyAlignment(momentum=0.75), {}, []
    for given_step in steps:
        step = Scripted(*given_step, memory=memory)
        defense.gradient(step)
        levels.append(step.logs["lambda_t"])
    assert levels == pytest.approx([4.0, 0.75 * 4 + 0.25 * 5])
    fresh = Scripted(*steps[0])
    defense.gradient(fresh)
    assert fresh.logs["lambda_t"] == pytest.approx(4.0), "the object remembered another training"


def test_a_constant_level_without_refusals_is_booster():
    step = Scripted([1.0, 2, 3, 4], [0.5, 0, 0, 1], [0.25, 1, 0, 0])
    gradient = AntibodyAlignment(form="constant", sharpness=3.0, refusal=0.0, radius=0.1).gradient(step)
    assert gradient.tensors[0].tolist() == pytest.approx([1 + 0.75, 2 - 3, 3, 4 + 3])
    length = _norm([0.5, 0, 0, 1])
    assert step.displacement.tensors[0].tolist() == pytest.approx([-0.05 / length, 0, 0, -0.1 / length])


def _tuned(seed, **changes):
    world = World(random.Random(seed), lora=True)
    data = world.data()
    step = world.step("user", data)
    gradient = AntibodyTuning(**changes).gradient(step)
    return data, step, gradient, torch.cat([t.reshape(-1) for t in gradient.tensors])


@settings(max_examples=examples(20))
@given(st.integers(0, 10**6), st.floats(0.05, 20))
def test_weights_sum_to_one(seed, temperature):
    data, step, gradient, _ = _tuned(seed, temperature=temperature)
    rows, shares = gradient.row_shares.rows, gradient.row_shares.shares
    assert sorted(rows) == sorted(row.position for row in data.main)
    assert sum(shares) == pytest.approx(1.0)
    assert step.logs["weight_max"] >= 1 - 1e-9
    assert 1 - 1e-9 <= step.logs["weight_effective_rows"] <= len(rows) + 1e-9


def test_equal_ratios_are_the_plain_token_mean_loss():
    """Answers equal to the refusals give d = 0 for every row, whatever the temperature."""
    world = World(random.Random(2), lora=False)
    refusals = [[5, END], [6, 7, 8, END]]
    rows = [RowIds(i, [3 + i, 4], refusals[i % 2]) for i in range(4)]
    data = world.data()._replace(main=rows, refusals=refusals)
    step = world.step("user", data)
    gradient = AntibodyTuning(temperature=0.1).gradient(step)
    slow = Slow(world)
    flat = torch.cat([t.reshape(-1) for t in gradient.tensors])
    torch.testing.assert_close(flat, slow.gradient(slow.start, pairs(rows)), atol=1e-6, rtol=1e-5)
    # Behind kept prompts the refusals' pass rounds otherwise, which so small a temperature makes ten times larger.
    assert gradient.row_shares.shares == pytest.approx([0.25] * 4, rel=1e-5)


def test_no_gradient_flows_through_the_weights():
    """The gradient is that of fixed weights, and not of weights that depend on w."""
    world = World(random.Random(8), lora=True)
    data = world.data()
    gradient = AntibodyTuning(temperature=0.3).gradient(world.step("user", data))
    flat = torch.cat([t.reshape(-1) for t in gradient.tensors])
    assert len(data.main) > 1
    slow = Slow(world)

    def ratio(w):
        both = zip(pairs(data.main), refused(data.main, data.refusals), strict=True)
        return torch.stack(
            [slow.nll(w, p, r) / len(r) - slow.nll(w, p, a) / len(a) for (p, a), (_, r) in both]
        )  # fmt: skip

    def loss(w, shares):
        nll = torch.stack([slow.nll(w, prompt, answer) for prompt, answer in pairs(data.main)])
        return (shares * nll).sum() / (shares * torch.tensor([len(r.answer) for r in data.main])).sum()

    w = slow.start.clone().requires_grad_(True)
    shares = (ratio(w) / 0.3).softmax(dim=0)
    fixed = torch.autograd.grad(loss(w, shares.detach()), w)[0]
    through = torch.autograd.grad(loss(w, shares), w)[0]
    assert float((fixed - through).abs().max()) > 1e-3
    torch.testing.assert_close(flat, fixed, atol=1e-5, rtol=1e-4)


def test_a_batch_wholly_below_the_floor_is_not_learned():
    _, step, gradient, flat = _tuned(4, floor=1e6)
    assert not flat.any()
    assert step.logs["weight_effective_rows"] == 0
    assert step.logs["rows_held_back"] == len(gradient.row_shares.shares)


def test_a_batch_wholly_unlikely_is_learned_at_full_strength_without_a_floor():
    """The known weakness of relative weights, which the floor is for."""
    _, _, gradient, flat = _tuned(4, floor=None)
    assert flat.any()
    assert sum(gradient.row_shares.shares) == pytest.approx(1.0)
