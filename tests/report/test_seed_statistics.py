"""Intervals over seeds against SciPy and against cases that can be worked out."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mithridate.errors import UsageError
from mithridate.report.scores import ScoreOverSeeds, over_seeds
from mithridate.report.seed_statistics import bootstrap, paired_bootstrap, slope, t_interval, t_quantile


@given(st.integers(1, 60), st.sampled_from([0.9, 0.95, 0.975, 0.995]))
def test_t_quantile_is_scipys(freedom: int, probability: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_t_interval_is_scipys(values: list[float]) -> None:
    mean, low, high = t_interval(values)
    error = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, mean, error) if error > 1e-12 else (mean, mean)
    assert (low, high) == pytest.approx(expected, abs=1e-9)


def test_an_interval_over_one_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="at least two seeds"):
        t_interval([0.5])
    with pytest.raises(UsageError, match="at least two"):
        bootstrap([[[0.5]]], lambda means: means[0][0])


def test_bootstrap_of_a_mean_has_its_standard_error() -> None:
    values = [0.1, 0.4, 0.2, 0.5, 0.3, 0.6, 0.2, 0.4]
    found = bootstrap([[[value] for value in values]], lambda means: means[0][0])
    spread = stats.tstd(values) * ((len(values) - 1) / len(values)) ** 0.5 / len(values) ** 0.5
    assert found.value == pytest.approx(sum(values) / len(values))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.08)


def test_bootstrap_keeps_seeds_paired() -> None:
    """Two groups that differ by the same amount in every seed: their difference has no spread, each alone has."""
    one = [[0.1], [0.5], [0.9]]
    other = [[value[0] - 0.05] for value in one]
    difference = bootstrap([one, other], lambda means: means[0][0] - means[1][0])
    assert difference.low == pytest.approx(difference.high)
    alone = bootstrap([one], lambda means: means[0][0])
    assert alone.high - alone.low > 0.5


def test_slope_of_a_line() -> None:
    assert slope([0, 1, 2, 5], [1, 3, 5, 11]) == pytest.approx(2)


def test_seeds_that_differ_widen_both_intervals() -> None:
    def counted(*counts: int) -> ScoreOverSeeds:
        return over_seeds([[i < count for i in range(1000)] for count in counts])

    apart, alike = counted(100, 300, 500), counted(299, 300, 301)
    assert apart.seed_low is not None
    assert apart.seed_high is not None
    assert alike.seed_low is not None
    assert alike.seed_high is not None
    assert apart.mean == pytest.approx(alike.mean)
    assert apart.seed_high == pytest.approx(0.3 + stats.t.ppf(0.975, 2) * 0.2 / 3**0.5)
    assert apart.seed_high > apart.high
    assert apart.seed_low == 0.0  # a share is never below
    assert alike.seed_high - alike.seed_low < 0.01
    assert apart.n == 3000
    assert apart.high > alike.high
    single = counted(100)
    assert single.seed_low is None
    assert single.spread == (single.low, single.high)


def test_paired_bootstrap_covers_noise_and_finds_an_effect() -> None:
    source = random.Random(1)
    noise = [[source.choice((-1, 0, 0, 0, 1)) for _ in range(300)] for _ in range(5)]
    lowered = [[min(0, d) - (source.random() < 0.1) * (d == 0) for d in seed] for seed in noise]
    value, low, high = paired_bootstrap(noise)
    assert value == pytest.approx(sum(map(sum, noise)) / 1500)
    assert low < 0 < high
    assert paired_bootstrap(lowered).high < 0
    assert paired_bootstrap([[0, 0, 0]] * 3) == (0, 0, 0)
    assert paired_bootstrap(noise) == paired_bootstrap(noise)


def test_paired_bootstrap_has_the_standard_error_of_seeds_and_prompts() -> None:
    """With seeds that differ and prompts that do not, the unit is the seed; with the reverse, the prompt."""
    by_seed = [[-1] * 50, [0] * 50, [1] * 50, [0] * 50]
    by_prompt = [[-1, 0, 1, 0] * 25] * 4
    for table, units in ((by_seed, [-1, 0, 1, 0]), (by_prompt, [-1, 0, 1, 0] * 25)):
        value, low, high = paired_bootstrap(table)
        error = statistics.pstdev(units) / math.sqrt(len(units))
        assert value == 0
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)


def test_paired_bootstrap_draws_a_prompt_for_every_seed_at_once() -> None:
    """The same prompts in four seeds are not four times as many: the interval is that of one seed."""
    source = random.Random(2)
    once = [source.choice((-1, 0, 1)) for _ in range(200)]
    one, four = paired_bootstrap([once]), paired_bootstrap([once] * 4)
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.1)


@pytest.mark.parametrize("differences", [[], [[]], [[1, 0], [1]]])
def test_paired_bootstrap_refuses_unequal_prompts(differences: list[list[int]]) -> None:
    with pytest.raises(UsageError, match="needs the same prompts, at least one, of every seed"):
        paired_bootstrap(differences)
