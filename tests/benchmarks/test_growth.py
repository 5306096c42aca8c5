"""Nothing grows faster than what it is given: operations and calls are counted at two sizes, no time is taken."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.growth import growth
from benchmarks.scale import REPAIR, TRAINING, Point, operations, points
from benchmarks.workload import Shape
from datasets import Dataset

from mithridate.data.mixing import mix
from mithridate.data.overlap import check_disjoint
from mithridate.data.row_loading import load_rows
from tests.matrix.row import thinned

LINEAR = 1.05
"""Largest exponent of what may grow with a size but no faster."""
TINY = Shape(width=16, layers=1, vocabulary=64, batch=2, sequence=16, rank=2)


def slope(varied: str, method: str, sizes: tuple[int, int], **shape: int) -> float:
    found = []
    for size in sizes:
        sized = TINY._replace(**{varied: size}) if varied in Shape._fields else TINY
        rows, harmful = (size if varied == name else 8 for name in ("rows", "harmful rows"))
        found.append(operations(Point(varied, size, method, sized._replace(**shape), rows, harmful)))
    return growth(sizes, found).exponent


@pytest.mark.parametrize("method", thinned(TRAINING, ["antibody_tuning"]))
def test_a_training_grows_with_its_upload_as_its_rows_do(method: str) -> None:
    assert slope("rows", method, (4, 12)) == pytest.approx(1, abs=LINEAR - 1)


@pytest.mark.parametrize("method", ["antibody_alignment", "booster"])
def test_more_harmful_rows_to_draw_from_make_no_step_longer(method: str) -> None:
    assert slope("harmful rows", method, (8, 24)) == pytest.approx(0, abs=0.05)


def test_a_repair_grows_with_its_harmful_rows_as_these_do() -> None:
    assert slope("harmful rows", REPAIR, (4, 12)) == pytest.approx(1, abs=LINEAR - 1)


@pytest.mark.parametrize("method", ["antibody_tuning", "booster"])
def test_a_step_grows_with_its_batch(method: str) -> None:
    assert slope("batch", method, (2, 6)) <= LINEAR


def test_every_batch_that_is_measured_is_full() -> None:
    every = list(points(TINY, 2, {"batch": [2, 6], "rows": [4, 8]}, ["sft"]))
    assert [(one.shape.batch, one.rows, one.harmful) for one in every] == [(2, 2, 2), (6, 6, 6), (2, 4, 2), (2, 8, 2)]


def test_only_attention_is_quadratic_in_the_row() -> None:
    """With a width far above the row's tokens, what attention adds is next to nothing."""
    assert slope("sequence", "sft", (8, 16), width=128) <= 1.1


def calls(work: Callable[[], Any]) -> int:
    """Functions that are called, those written in C included."""
    number = 0

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return number


def rows(count: int, name: str) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"{name} {number}"}],
                "completion": [{"role": "assistant", "content": f"answer {number}"}],
                "origin": f"{name}:{number}",
            }
            for number in range(count)
        ]
    )


def written(count: int, folder: Path) -> Path:
    path = folder / f"{count}.jsonl"
    path.write_text("".join(f'{{"prompt": "ask {i}", "completion": "say {i}"}}\n' for i in range(count)))
    return path


def test_what_is_done_to_rows_before_any_training_is_linear(tmp_path: Path) -> None:
    sizes = (200, 800)
    works = {
        "mixing": lambda n: mix(rows(n, "plain"), rows(n, "bad"), ratio=0.5, size=n, seed=0),
        "overlap": lambda n: check_disjoint({"a": rows(n, "a"), "b": rows(n, "b")}),
        "reading": lambda n: load_rows(written(n, tmp_path)),
    }
    for name, work in works.items():
        work(sizes[0])  # what is imported and cached is counted no more
        found = growth(sizes, [calls(lambda n=n, work=work: work(n)) for n in sizes])
        assert found.exponent <= LINEAR, name


def test_a_slope_is_that_of_the_logarithms() -> None:
    exact = growth([1, 2, 4], [3, 12, 48])
    assert exact.rounded() == {"exponent": 2.0, "low": 2.0, "high": 2.0}
    bent = growth([1, 2, 4], [1, 2, 8])
    assert bent.exponent == pytest.approx(1.5)
    assert bent.low < 1 < 2 < bent.high
    assert growth([1, 2, 4], [5, 5, 5]) == (0, 0, 0), "and no figure that is none"
    assert growth([1, 2], [1, 4]).exponent == pytest.approx(2)
