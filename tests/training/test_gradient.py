"""The vector's arithmetic against one flat float64 vector."""

import copy
import math
import pickle
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mithridate.errors import DefenseError, Diverged
from mithridate.training.gradient import LONGEST, Gradient
from mithridate.training.vector_terms import pieces_of
from mithridate.training.vector_terms import terms as expression

SHAPES = st.lists(st.lists(st.integers(1, 4), min_size=0, max_size=3), min_size=1, max_size=4)
SCALARS = st.floats(-10, 10, allow_nan=False)


def _gradient(shapes, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return Gradient([torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes])


def _flat(gradient):
    return torch.cat([tensor.double().reshape(-1) for tensor in gradient.tensors])


@given(SHAPES, st.integers(0, 99), st.integers(0, 99), SCALARS, st.floats(0.1, 10))
def test_arithmetic_equals_a_flat_vector(shapes, first, second, scale, divisor):
    a, b = _gradient(shapes, first), _gradient(shapes, second)
    x, y = _flat(a), _flat(b)
    for ours, expected in (
        (a + b, x + y), (a - b, x - y), (a * scale, x * scale), (scale * a, x * scale), (a / divisor, x / divisor),
        (-a, -x), (a + scale * (a - b) / divisor, x + scale * (x - y) / divisor),
    ):  # fmt: skip
        torch.testing.assert_close(_flat(ours), expected)
        assert [t.shape for t in ours.tensors] == [t.shape for t in a.tensors]
    assert a.dot(b) == pytest.approx(float((x * y).sum()), abs=1e-12)
    assert a.norm() == pytest.approx(math.sqrt(float((x * x).sum())))
    assert a.unit().norm() == pytest.approx(1.0)
    torch.testing.assert_close(_flat(a.unit()), x / x.norm())


@given(SHAPES, st.integers(0, 99))
def test_operations_leave_their_operands_alone(shapes, seed):
    a, b = _gradient(shapes, seed), _gradient(shapes, seed + 1)
    before = _flat(a).clone(), _flat(b).clone()
    for result in (a + b, a - b, 2 * a, a / 2, -a, a.unit()):
        for tensor in result.tensors:
            tensor.zero_()
    assert torch.equal(_flat(a), before[0])
    assert torch.equal(_flat(b), before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_dot_of_narrow_tensors_are_summed_wide(dtype):
    ones = Gradient([torch.ones(5000, dtype=dtype), torch.ones(3, dtype=dtype)])
    assert ones.dot(ones) == 5003
    assert ones.norm() == pytest.approx(math.sqrt(5003), rel=1e-6)


@pytest.mark.parametrize("values", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_a_vector_without_direction_is_refused(values):
    with pytest.raises(DefenseError, match="has no direction") as told:
        Gradient([torch.tensor(values)]).unit()
    assert (type(told.value) is Diverged) is any(values)


def _owned(seed, sizes=(3, 5, 2)):
    generator = torch.Generator().manual_seed(seed)
    return Gradient.owning([torch.randn(size, generator=generator) for size in sizes])


def _values(gradient):
    return torch.cat([tensor.reshape(-1).clone() for tensor in (1.0 * gradient).tensors])


def test_a_formula_has_the_bits_of_its_operations_one_by_one():
    a, b, c = (_values(_owned(seed)) for seed in range(3))
    expected = a + 5.0 * (b - c / 0.3) - -c
    held = [_owned(seed) for seed in range(3)]
    assert torch.equal(_values(held[0] + 5.0 * (held[1] - held[2] / 0.3) - -held[2]), expected)
    # Now nobody else holds the terms, so that they are overwritten.
    sharp = _owned(1) - _owned(2) / 0.3
    sharp.norm()
    found = _owned(0) + 5.0 * sharp - -_owned(2)
    assert torch.equal(torch.cat(found.tensors), expected)


def test_terms_that_nobody_holds_are_computed_in_place():
    first = _owned(0)
    memory = [tensor.data_ptr() for tensor in first._vector.tensors]
    total = first + _owned(1)
    del first
    assert [tensor.data_ptr() for tensor in total.tensors] == memory


def test_terms_that_somebody_holds_are_left_alone():
    first, second = _owned(0), _owned(1)
    before = _values(first), _values(second)
    total = first - 2.0 * second
    total += first
    total.norm()
    for tensor in total.tensors:
        tensor.zero_()
    assert torch.equal(_values(first), before[0])
    assert torch.equal(_values(second), before[1])


def test_a_sum_into_a_vector_changes_that_vector_alone():
    first, second = _owned(0), _owned(1)
    scaled, before = 3.0 * first, _values(first)
    first += second
    first -= first
    assert torch.equal(_values(scaled), 3.0 * before)
    assert not _values(first).any()
    assert torch.equal(_values(second), _values(_owned(1)))


def test_what_was_lent_is_never_overwritten_and_what_is_made_of_it_does_not_change_with_it():
    lent = [torch.ones(3), torch.ones(2)]
    total = Gradient(lent) + 2.0 * Gradient(lent)
    total += Gradient(lent)
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in lent)
    lent[0].zero_()
    assert torch.equal(_values(total), 4 * torch.ones(5))


def test_what_is_written_into_a_vectors_tensors_changes_nothing_that_was_made_of_it():
    first = _owned(0)
    scaled, before = 2.0 * first, _values(first)
    for tensor in first.tensors:
        tensor.zero_()
    assert torch.equal(_values(scaled), 2.0 * before)
    again = first + first
    for tensor in first.tensors:
        tensor.fill_(7.0)
    assert not _values(again).any()


def test_kept_tensors_outlive_whoever_clips_the_vector():
    first = _owned(0)
    kept, before = first.kept(), _values(first)
    for gradient in (first, Gradient.reading(kept), 1.0 * first):
        for tensor in gradient.tensors:
            tensor.mul_(0.5)
    sum_of_both = Gradient.reading(kept) + _owned(1)
    sum_of_both.norm()
    assert torch.equal(torch.cat(kept), before)
    lent = [torch.ones(3)]
    kept = Gradient(lent).kept()
    lent[0].zero_()
    assert kept[0].sum() == 3


def test_sums_of_two_types_are_those_of_torch():
    narrow, wide = torch.full((3,), 1 + 2**-7, dtype=torch.bfloat16), torch.full((3,), 2.0**-12)
    for make in (Gradient, Gradient.owning):
        for found in (make([narrow.clone()]) + make([wide.clone()]), make([wide.clone()]) - -make([narrow.clone()])):
            assert found.tensors[0].dtype is torch.float32
            assert torch.equal(found.tensors[0], narrow + wide)
    into = Gradient.owning([narrow.clone()])
    into += Gradient.owning([wide.clone()])
    assert torch.equal(into.tensors[0], narrow + wide)


def test_a_loop_that_adds_up_does_not_keep_what_it_added():
    terms = [_owned(seed) for seed in range(4 * LONGEST)]
    total = terms[0]
    for term in terms[1:]:
        total = total + 0.5 * term
    assert len(expression(total._vector)) <= LONGEST + 1
    expected = _values(terms[0])
    for term in terms[1:]:
        expected = expected + 0.5 * _values(term)
    assert torch.equal(_values(total), expected)


def test_vectors_over_different_weights_are_not_combined():
    with pytest.raises(DefenseError, match="over different weights"):
        _owned(0) + _owned(1, sizes=(3, 5))
    with pytest.raises(DefenseError, match="over different weights"):
        Gradient([torch.ones(3)]) - Gradient([torch.ones(3), torch.ones(2)])
    held = _owned(0)
    for sizes in ((3, 5), (3, 5, 2, 1), (3, 5, 1)):
        for combine in (held.__add__, held.dot, (2.0 * held).dot):
            with pytest.raises(DefenseError, match="over different weights"):
                combine(_owned(1, sizes))
        with pytest.raises(DefenseError, match="over different weights"):
            (2.0 * held).add_to(_owned(1, sizes).tensors)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.floats(0, 40))
def test_pieces_cover_every_tensor_once_and_in_order(sizes, size):
    tensors = [torch.ones(n) for n in sizes]
    cut = list(pieces_of(tensors, size))
    assert [place for piece in cut for place in range(piece.start, piece.stop)] == list(range(len(tensors)))
    assert all(sum(t.nbytes for t in tensors[piece]) >= size for piece in cut[:-1])


def test_adding_to_tensors_is_adding_the_vector():
    first, second, into = _owned(0), _owned(1), [torch.ones(3), torch.ones(5), torch.ones(2)]
    (first - 2.0 * second).add_to(into)
    assert torch.equal(torch.cat(into), torch.ones(10) + (_values(first) - 2.0 * _values(second)))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda gradient: pickle.loads(pickle.dumps(gradient))])
def test_a_copy_does_not_change_with_the_vector(how):
    for made in (_owned(0), 2.0 * _owned(0)):
        before, copied = _values(made), how(made)
        made += _owned(1)
        assert torch.equal(_values(copied), before)
        copied += _owned(2)
        assert torch.equal(_values(made), before + _values(_owned(1)))


def test_a_sum_into_a_vector_changes_it_under_all_its_names_and_a_multiple_does_not():
    first = _owned(0)
    other, before = first, _values(first)
    other += _owned(1)
    assert other is first
    other *= 2.0
    assert torch.equal(_values(first), before + _values(_owned(1)))


def test_a_factor_that_changes_later_changes_nothing():
    factor, first = torch.tensor(2.0), _owned(0)
    scaled, divided = first * factor, first / factor
    factor.zero_()
    assert torch.equal(_values(scaled), 2.0 * _values(first))
    assert torch.equal(_values(divided), _values(first) / 2.0)


def test_a_sum_that_fails_halfway_is_no_value(monkeypatch):
    total = 2.0 * _owned(0)
    total = total + _owned(1)

    def fails(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "_foreach_add_", fails)
    with pytest.raises(torch.OutOfMemoryError):
        total.norm()
    monkeypatch.undo()
    with pytest.raises(DefenseError, match="over different weights"):
        total + _owned(1)


@pytest.mark.parametrize("dtypes", [[torch.float32], [torch.bfloat16], [torch.float32, torch.bfloat16]])
def test_random_formulas_have_the_bits_of_torch_and_change_no_other_vector(dtypes):
    chance = random.Random(0)
    torch.manual_seed(0)
    for _ in range(6):
        held = []
        for step in range(60):
            if step < 3 or chance.random() < 0.1:
                tensors = [torch.randn(size).to(chance.choice(dtypes)) for size in ((3, 2), (), (0,), (5,))]
                make = chance.choice([Gradient, Gradient.owning, Gradient.reading])
                held.append((make([t.clone() for t in tensors]), tensors))
            here, there = chance.randrange(len(held)), chance.randrange(len(held))
            (a, x), (b, y), s = held[here], held[there], chance.choice([2.0, -0.3, 1 / 3, 0.0])
            added, scaled = torch._foreach_add(x, y), torch._foreach_mul(y, s)
            held.append(
                chance.choice(
                    [
                        lambda a=a, b=b, v=added: (a + b, v),
                        lambda b=b, s=s, v=scaled: (b * s, v),
                        lambda a=a, x=x: (-a / 3.0, torch._foreach_div(torch._foreach_neg(x), 3.0)),
                        lambda a=a, b=b, s=s, x=x, v=scaled: (a - s * b, torch._foreach_sub(x, v)),
                    ]
                )()
            )
            held[chance.randrange(len(held))][0].norm()
            if chance.random() < 0.3:
                a += b
                held[here] = a, added
            if len(held) > 6:
                # What nobody holds any longer may be overwritten.
                del held[chance.randrange(len(held))], a, b
        for found, expected in held:
            pairs = list(zip(found.tensors, expected, strict=True))
            assert all(one.dtype is two.dtype and torch.equal(one, two) for one, two in pairs)
