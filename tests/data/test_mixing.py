"""Mixes have exact counts, are nested in the ratio, and depend on the seed alone."""

import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.examples import examples

from mithridate.data import mix, split_rows
from mithridate.errors import DataError, UsageError


@pytest.fixture(scope="module")
def benign(rows_of) -> Dataset:
    return rows_of([f"benign {i}" for i in range(60)], "benign")


@pytest.fixture(scope="module")
def harmful(rows_of) -> Dataset:
    return rows_of([f"harmful {i}" for i in range(40)], "harmful")


ratios = st.floats(0, 1)
sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32)


@settings(max_examples=examples(60), deadline=None)
@given(ratio=ratios, size=sizes, seed=seeds)
def test_counts_are_exact_and_rows_unique(benign, harmful, ratio: float, size: int, seed: int) -> None:
    mixed = mix(benign, harmful, ratio=ratio, size=size, seed=seed)
    assert len(mixed) == size
    assert sum(mixed["harmful"]) == round(ratio * size)
    assert len(set(mixed["origin"])) == size
    for row in mixed:
        assert row["origin"].startswith("harmful" if row["harmful"] else "benign")
    assert mixed.column_names == ["prompt", "completion", "origin", "harmful"]


@settings(max_examples=examples(40), deadline=None)
@given(one=ratios, other=ratios, size=sizes, seed=seeds)
def test_a_smaller_ratio_is_nested_in_a_greater(
    benign, harmful, one: float, other: float, size: int, seed: int
) -> None:
    def parts(ratio: float) -> tuple[set[str], set[str]]:
        mixed = mix(benign, harmful, ratio=ratio, size=size, seed=seed)
        poison = {row["origin"] for row in mixed if row["harmful"]}
        return poison, set(mixed["origin"]) - poison

    (fewer, more_benign), (more, fewer_benign) = parts(min(one, other)), parts(max(one, other))
    assert fewer <= more
    assert fewer_benign <= more_benign


def test_the_seed_decides_choice_and_order(benign, harmful) -> None:
    def origins(seed: int) -> list[str]:
        return list(mix(benign, harmful, ratio=0.3, size=30, seed=seed)["origin"])

    assert origins(1) == origins(1)
    assert set(origins(1)) != set(origins(2))
    harmful_places = [i for i, origin in enumerate(origins(1)) if origin.startswith("harmful")]
    assert harmful_places not in (list(range(9)), list(range(21, 30)))


@pytest.mark.parametrize(
    ("ratio", "size", "message"),
    [
        (-0.1, 10, "The harmful ratio is -0.1; it must be from 0 to 1."),
        (1.5, 10, "The harmful ratio is 1.5; it must be from 0 to 1."),
        (float("nan"), 10, "The harmful ratio is nan; it must be from 0 to 1."),
        (0.5, 0, "The size of the mix is 0; it must be at least 1."),
        (1.0, 41, "The mix asks for 41 harmful rows and there are 40."),
        (0.0, 61, "The mix asks for 61 benign rows and there are 60."),
    ],
)
def test_impossible_numbers(benign, harmful, ratio: float, size: int, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        mix(benign, harmful, ratio=ratio, size=size, seed=0)
    assert str(caught.value) == message


def test_sources_that_share_a_prompt(benign, rows_of) -> None:
    other = rows_of(["new", "  Benign\n7 "], "other")
    with pytest.raises(DataError, match="1 prompt of 'benign' also in 'harmful': for example benign:8 equals other:2"):
        mix(benign, other, ratio=0.1, size=10, seed=0)


def test_rows_without_a_column(benign, harmful) -> None:
    with pytest.raises(DataError, match="The harmful rows have no column 'origin'"):
        mix(benign, harmful.remove_columns("origin"), ratio=0.1, size=10, seed=0)


@settings(max_examples=examples(40), deadline=None)
@given(share=st.floats(0.001, 0.999), size=st.integers(2, 60), seed=seeds)
def test_a_split_loses_and_doubles_nothing(benign, share: float, size: int, seed: int) -> None:
    rows = benign.select(range(size))
    kept, held_out = split_rows(rows, share, seed)
    assert sorted([*kept["origin"], *held_out["origin"]]) == sorted(rows["origin"])
    assert len(held_out) == min(max(1, round(share * size)), size - 1)
    assert list(split_rows(rows, share, seed).held_out["origin"]) == list(held_out["origin"])


def test_splits_that_cannot_be_made(benign) -> None:
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match=r"it must be above 0 and below 1\.$"):
            split_rows(benign, share, 0)
    with pytest.raises(UsageError, match="A split needs at least 2 rows and there is 1"):
        split_rows(benign.select([0]), 0.5, 0)


@pytest.mark.parametrize("ratio", [0, 1])
def test_rows_of_which_none_is_taken_may_lie_in_several_parts(rows_of, ratio):
    """A slice over two parts of a table: `datasets` cannot add a column to its empty selection."""
    parts = [rows_of([f"part {part} row {i}" for i in range(50)], f"part {part}") for part in range(2)]
    sliced = concatenate_datasets(parts).select(range(30, 70))
    other = rows_of([f"other {i}" for i in range(20)], "other")
    benign, harmful = (other, sliced) if ratio == 0 else (sliced, other)
    mixed = mix(benign, harmful, ratio=ratio, size=20, seed=0)
    assert sorted(mixed["prompt"], key=str) == sorted(other["prompt"], key=str)
    assert mixed["harmful"] == [ratio == 1] * 20
    assert mixed.features == mix(other, sliced, ratio=0.5, size=20, seed=0).features
