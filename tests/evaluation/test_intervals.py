import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2_contingency

from mithridate.errors import UsageError
from mithridate.evaluation.intervals import Score, paired_test, pooled

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.floats(0.5, 0.999))
def test_wilson_equals_scipy(count: tuple[int, int], confidence: float) -> None:
    successes, n = count
    score = Score.of(successes, n, confidence)
    reference = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert score.low == pytest.approx(reference.low, abs=1e-12)
    assert score.high == pytest.approx(reference.high, abs=1e-12)
    assert 0 <= score.low <= score.value <= score.high <= 1


def test_edges_are_exact() -> None:
    assert Score.of(0, 10)[:2] == (0.0, 0.0)
    assert Score.of(10, 10)[2] == 1.0
    assert Score.of(0, 10).high > 0.2


@pytest.mark.parametrize(("share", "n"), [(0.5, 100), (0.2, 200), (0.05, 500), (0.9, 150)])
def test_coverage_of_nominal_95_percent(share: float, n: int) -> None:
    draw = random.Random(7)
    runs, covered = 4000, 0
    for _ in range(runs):
        score = Score.of(sum(draw.random() < share for _ in range(n)), n)
        covered += score.low <= share <= score.high
    assert 0.93 <= covered / runs <= 0.97


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(UsageError, match="successes"):
        Score.of(successes, n)


def test_confidence_outside_its_range_is_refused() -> None:
    with pytest.raises(UsageError, match="confidence"):
        Score.of(1, 2, confidence=95)


def test_as_dict_holds_the_four_numbers() -> None:
    assert set(Score.of(1, 4).as_dict()) == {"value", "low", "high", "n"}
    assert Score.of(1, 4).as_dict()["value"] == 0.25


def test_pooled_runs_that_agree_equal_one_large_run() -> None:
    assert pooled([Score.of(30, 100), Score.of(60, 200)]) == Score.of(90, 300)


def test_pooled_runs_that_disagree_get_a_wider_interval() -> None:
    apart, alone = pooled([Score.of(10, 100), Score.of(90, 100)]), Score.of(100, 200)
    assert apart.value == alone.value
    assert apart.n == 200
    assert apart.high - apart.low > 3 * (alone.high - alone.low)


def test_pooling_counts_answers_not_runs() -> None:
    assert pooled([Score.of(10, 100), Score.of(90, 300)]).value == 0.25
    assert pooled([Score.of(1, 1), Score.of(0, 999)]).value == 0.001


@pytest.mark.parametrize("counts", [[30, 60, 45], [10, 90], [5, 20, 40, 80], [50, 52, 49]])
def test_runs_are_widened_by_their_overdispersion(counts: list[int]) -> None:
    """Against scipy's χ² of the table of answers, and Wilson's equation (value − p)² = z²·p(1 − p)/n at both ends."""
    found = pooled([Score.of(count, 100) for count in counts])
    statistic = chi2_contingency([counts, [100 - count for count in counts]], correction=False).statistic
    effective = found.n / max(1.0, statistic / (len(counts) - 1))
    for end in (found.low, found.high):
        assert (found.value - end) ** 2 == pytest.approx(1.959963985**2 * end * (1 - end) / effective, rel=1e-6)
    assert found.low < found.value < found.high


def test_one_run_or_a_share_of_zero_has_no_overdispersion() -> None:
    assert pooled([Score.of(37, 100)]) == Score.of(37, 100)
    assert pooled([Score.of(0, 50), Score.of(0, 50)]) == Score.of(0, 100)
    assert pooled([Score.of(50, 50), Score.of(50, 50)]) == Score.of(100, 100)


def test_pooled_confidence_is_the_one_asked_for() -> None:
    assert pooled([Score.of(30, 100)], 0.8) == Score.of(30, 100, 0.8)
    assert pooled([Score.of(30, 100)], 0.8).low > pooled([Score.of(30, 100)]).low


def test_ends_stay_exact_next_to_the_edges() -> None:
    for n in range(1, 400):
        assert Score.of(0, n).low == 0.0
        assert Score.of(n, n).high == 1.0
    assert Score.of(1, 10).low > 0
    assert Score.of(9, 10).high < 1
    assert Score.of(10, 10).low < 1
    assert Score.of(1, 1)[:3] == (1.0, pytest.approx(0.2065, abs=1e-4), 1.0)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.1])
def test_a_confidence_at_its_bounds_is_refused(confidence: float) -> None:
    with pytest.raises(UsageError, match="confidence"):
        Score.of(1, 2, confidence)


def test_pooling_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no scores"):
        pooled([])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300))
def test_paired_test_equals_scipys_exact_binomial(pairs: list[tuple[bool, bool]]) -> None:
    a, b = zip(*pairs, strict=True)
    only_a = sum(x > y for x, y in pairs)
    only_b = sum(y > x for x, y in pairs)
    expected = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    found = paired_test(a, b)
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert found.difference == pytest.approx(sum(a) / len(a) - sum(b) / len(b))
    assert found.n == len(pairs)


def test_paired_test_needs_the_same_prompts() -> None:
    with pytest.raises(UsageError, match="same prompts"):
        paired_test([True], [True, False])
    with pytest.raises(UsageError, match="same prompts"):
        paired_test([], [])


def test_paired_test_of_many_pairs_stays_exact() -> None:
    assert 0 < paired_test([True] * 1000 + [False] * 30, [False] * 1000 + [True] * 30).p_value < 1e-200
