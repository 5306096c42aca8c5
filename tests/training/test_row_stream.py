"""Streams: every row once a pass, an order of its own for every pass, and a position that is the whole state."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mithridate.models.tokenization import TokenizedRow
from mithridate.training.row_stream import Stream


def _stream(rows, size, seed=0):
    return Stream([TokenizedRow([row], [row], row) for row in range(rows)], size, seed)


def _rows(stream, draws):
    return [example.row for _ in range(draws) for example in stream.draw()]


@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 5))
def test_every_pass_holds_every_row_once(rows, size, seed):
    drawn = _rows(_stream(rows, size, seed), 3 * rows)
    for start in range(0, len(drawn), rows):
        assert Counter(drawn[start : start + rows]) == Counter(range(rows))


@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 12))
def test_the_position_is_the_whole_state(rows, size, before):
    straight, resumed = _stream(rows, size), _stream(rows, size)
    _rows(straight, before)
    resumed.drawn = straight.drawn
    assert _rows(straight, 5) == _rows(resumed, 5)


def test_passes_and_seeds_have_orders_of_their_own():
    drawn = _rows(_stream(50, 50), 3)
    assert len({tuple(drawn[i : i + 50]) for i in (0, 50, 100)}) == 3
    assert _rows(_stream(50, 50, 1), 1) != _rows(_stream(50, 50, 2), 1)
    assert _rows(_stream(50, 50, 1), 1) == _rows(_stream(50, 50, 1), 1)


def test_drawing_more_rows_than_there_are_goes_round():
    assert sorted(Counter(_rows(_stream(3, 7), 1)).values()) == [2, 2, 3]
