"""Noise whose rows can be drawn by themselves, and comparisons that are those of torch."""

import math

import pytest
import torch

from mithridate.repair import noise
from mithridate.repair.comparisons import at_least, count_nonzero
from mithridate.repair.noise import Noise

SHAPES = [(37, 5), (), (4, 3, 6), (0, 4), (9,)]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(noise, "PART", 20)


def test_rows_are_those_of_the_whole_in_any_order(small_parts):
    found = Noise(3, SHAPES)
    for weight, shape in enumerate(SHAPES):
        whole = found.rows(weight)
        assert whole.shape == shape
        assert whole.dtype == torch.float32
        for first, last in ((11, 36), (0, 3), (3, 4)):
            if shape and last <= shape[0]:
                assert torch.equal(found.rows(weight, slice(first, last)), whole[first:last])


def test_no_two_parts_weights_or_seeds_are_alike(small_parts):
    whole = Noise(0, [(8, 5), (8, 5)]).rows(0)
    assert not torch.equal(whole[:4], whole[4:])
    assert not torch.equal(whole, Noise(0, [(8, 5), (8, 5)]).rows(1))
    assert not torch.equal(whole, Noise(-1, [(8, 5)]).rows(0))
    assert torch.equal(whole, Noise(0, [(8, 5)]).rows(0))


def test_the_norm_is_that_of_all_weights(small_parts):
    found = Noise(1, SHAPES)
    squares = [float(found.rows(weight).double().square().sum()) for weight in range(len(SHAPES))]
    assert found.norm() == pytest.approx(math.sqrt(sum(squares)), rel=1e-12)


def test_it_is_standard_normal():
    drawn = Noise(5, [(300, 1000)]).rows(0).double()
    assert float(drawn.mean()) == pytest.approx(0, abs=0.01)
    assert float(drawn.var()) == pytest.approx(1, abs=0.01)
    assert float((drawn.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.005)


def test_comparisons_are_those_of_torch():
    values = torch.tensor([[0.0, -0.0, math.nan], [1e-300, -1.0, math.inf]], dtype=torch.float64)
    assert count_nonzero(values) == int(torch.count_nonzero(values)) == 4
    assert count_nonzero(values == 0) == 2
    limits = torch.tensor([[0.0], [-1.0]], dtype=torch.float64)
    assert torch.equal(at_least(values, limits), values >= limits)
