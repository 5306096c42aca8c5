import pandas as pd

from pairfolio.evaluation.regimes import bars_within, choose, crypto_regimes


def hours(start: str, count: int) -> pd.DatetimeIndex:
    return pd.date_range(start, periods=count, freq="h", tz="UTC")


def test_a_step_must_begin_and_end_inside() -> None:
    times = hours("2022-01-01", 10)
    steps = bars_within(times, times[2], times[6])
    assert steps.tolist() == [2, 3, 4]


def test_named_situations_belong_to_their_years_only() -> None:
    assert choose(hours("2022-06-01", 10)) == crypto_regimes()
    assert [name for name, _, _ in choose(hours("2030-03-31", 48))] == ["2030 Q1", "2030 Q2"]


def test_the_quarters_meet() -> None:
    (_, _, end), (_, start, _) = choose(hours("2030-03-31", 48))
    assert end == start == pd.Timestamp("2030-04-01", tz="UTC")
