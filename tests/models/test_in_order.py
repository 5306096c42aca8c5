"""Work in threads whose results come in the items' order."""

import threading
import time

import pytest

from mithridate.models.in_order import in_order


def test_results_come_in_order_and_few_are_ahead():
    taken, lock, running, most = [], threading.Lock(), 0, 0

    def items():
        for item in range(40):
            taken.append(item)
            yield item

    def work(item):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002 if item % 3 else 0.01)
        with lock:
            running -= 1
        return item * item

    for number, (item, result) in enumerate(in_order(work, items(), threads=3)):
        assert (item, result) == (number, number * number)
        assert len(taken) <= number + 3 + 2
    assert number == 39
    assert 1 < most <= 3


def test_an_error_comes_at_its_turn_and_stops_the_rest():
    done = []

    def work(item):
        if item == 4:
            raise ValueError(item)
        done.append(item)

    results = in_order(work, range(1000), threads=2)
    assert [next(results)[0] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="4"):
        next(results)
    assert max(done) < 10


def test_whoever_stops_listening_stops_the_work():
    done = []
    results = in_order(done.append, range(1000), threads=2)
    next(results)
    results.close()
    assert len(done) < 10
    assert list(in_order(done.append, [], threads=2)) == []
