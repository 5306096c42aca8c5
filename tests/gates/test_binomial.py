"""Tails and bounds are exact: they agree with an independent library, at the edges too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mithridate.errors import UsageError
from mithridate.gates.binomial import allowed, critical, lower_bound, rows_needed, upper_bound, upper_tail


@given(n=st.integers(1, 3000), share=st.floats(0, 1), p=st.floats(1e-4, 0.9999))
def test_a_tail_is_that_of_scipy(n, share, p):
    k = round(share * n)
    assert upper_tail(k, n, p) == pytest.approx(stats.binom.sf(k - 1, n, p), rel=1e-6, abs=1e-13)


def test_a_tiny_tail_is_no_difference_from_one():
    assert upper_tail(60, 500, 0.002) == pytest.approx(stats.binom.sf(59, 500, 0.002), rel=1e-8)
    assert 0 < upper_tail(60, 500, 0.002) < 1e-80


@given(n=st.integers(1, 400), share=st.floats(0, 1))
def test_bounds_are_those_of_clopper_and_pearson(n, share):
    k = round(share * n)
    low = stats.beta.ppf(0.05, k, n - k + 1) if k else 0.0
    high = stats.beta.ppf(0.95, k + 1, n - k) if k < n else 1.0
    assert lower_bound(k, n) == pytest.approx(low, abs=1e-9)
    assert upper_bound(k, n) == pytest.approx(high, abs=1e-9)


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 299), (0.05, 59), (0.002, 1497)])
def test_as_many_rows_are_needed_as_bound_the_rate_without_any_above(rate, needed):
    assert rows_needed(rate) == needed
    assert upper_bound(0, needed) <= rate < upper_bound(0, needed - 1)
    assert allowed(needed, rate) == 0
    assert allowed(needed - 1, rate) is None


@given(n=st.integers(300, 5000))
def test_no_more_rows_are_allowed_than_keep_the_bound(n):
    most = allowed(n, 0.01)
    assert upper_bound(most, n) <= 0.01 < upper_bound(most + 1, n)


@given(n=st.integers(0, 3000), rate=st.floats(1e-3, 0.2), alpha=st.floats(1e-5, 0.1))
def test_the_critical_count_is_the_least_that_surprises(n, rate, alpha):
    k = critical(n, rate, alpha)
    assert upper_tail(k, n, rate) <= alpha
    assert k == 0 or upper_tail(k - 1, n, rate) > alpha


@pytest.mark.parametrize("call", [
    lambda: upper_tail(1, -1, 0.5), lambda: upper_tail(1, 3, 1.5), lambda: lower_bound(4, 3), lambda: upper_bound(0, 0),
    lambda: upper_bound(1, 3, 1.0), lambda: rows_needed(0.0), lambda: rows_needed(0.1, 1.0),
])  # fmt: skip
def test_what_is_no_share_is_refused(call):
    with pytest.raises(UsageError):
        call()
