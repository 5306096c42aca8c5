"""The vector's arithmetic against one flat float64 vector."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mithridate.errors import DefenseError, Diverged
from mithridate.training.gradient import Gradient

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
