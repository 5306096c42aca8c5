"""Poisoned user data with an exact harmful ratio, and the slice of it that is held out."""

from __future__ import annotations

import random
from typing import NamedTuple

from datasets import Dataset, Features, Value, concatenate_datasets

from mithridate.data.overlap import check_disjoint
from mithridate.data.row_loading import FEATURES, check_columns
from mithridate.errors import UsageError


class RowSplit(NamedTuple):
    """Rows to train on, and rows held out of them; both in the order of the source."""

    kept: Dataset
    held_out: Dataset


def mix(benign: Dataset, harmful: Dataset, *, ratio: float, size: int, seed: int) -> Dataset:
    """Sample a user's data set in which a share of the rows is harmful.

    Both sources are sampled without replacement. With one seed, the rows are nested: the harmful rows of
    a smaller ratio or size are among those of a greater one, so that a sweep changes nothing else.

    Args:
        benign: Rows of the user's task.
        harmful: Rows of the attack.
        ratio: Harmful share p, from 0 to 1; `round(ratio * size)` rows are harmful (half to even).
        size: Number of rows in all.
        seed: Seed of the samples and of their order.

    Returns:
        `size` shuffled rows with `prompt`, `completion`, `origin` and `harmful`.

    Raises:
        UsageError: A number is out of range, or a source has fewer rows than the mix needs.
        DataError: A prompt is in both sources, or a source lacks a column.
    """
    if not 0 <= ratio <= 1:
        raise UsageError(f"The harmful ratio is {ratio}; it must be from 0 to 1.")
    if size < 1:
        raise UsageError(f"The size of the mix is {size}; it must be at least 1.")
    n_harmful = round(ratio * size)
    check_columns(benign, "benign")
    check_columns(harmful, "harmful")
    # With rows of one source alone, no prompt can be benign and harmful at once.
    if n_harmful and n_harmful < size:
        check_disjoint({"benign": benign, "harmful": harmful})
    parts = [
        _sample(benign, size - n_harmful, "benign", False, seed),
        _sample(harmful, n_harmful, "harmful", True, seed),
    ]
    return concatenate_datasets(parts).select(_order(size, "mix", seed))


def split_rows(rows: Dataset, held_out: float, seed: int) -> RowSplit:
    """Hold out a random share of the rows, for example to choose a repair's strength.

    Args:
        rows: Any rows.
        held_out: Share to hold out, above 0 and below 1; rounded to whole rows, at least one on either side.
        seed: Seed of the choice.

    Raises:
        UsageError: The share is out of range, or there are fewer than two rows.
    """
    if not 0 < held_out < 1:
        raise UsageError(f"The held-out share is {held_out}; it must be above 0 and below 1.")
    if len(rows) < 2:
        raise UsageError(f"A split needs at least 2 rows and there is {len(rows)}.")
    # At least one row on either side: a repair cannot choose its strength on none.
    count = min(max(1, round(held_out * len(rows))), len(rows) - 1)
    order = _order(len(rows), "split", seed)
    return RowSplit(rows.select(sorted(order[count:])), rows.select(sorted(order[:count])))


def _sample(rows: Dataset, count: int, name: str, harmful: bool, seed: int) -> Dataset:
    if count > len(rows):
        raise UsageError(f"The mix asks for {count} {name} rows and there are {len(rows)}.")
    # A prefix of one permutation, so that a smaller sample lies within every larger one.
    chosen = rows.select_columns(list(FEATURES)).select(_order(len(rows), name, seed)[:count])
    return labeled(chosen, harmful)


def labeled(rows: Dataset, harmful: bool) -> Dataset:
    """Return rows with the column `harmful`, which is the same for all of them."""
    if not len(rows):  # of a slice over several parts, `select([])` keeps parts that a column cannot be added to
        features = Features({**rows.features, "harmful": Value("bool")})
        return Dataset.from_dict({name: [] for name in features}, features=features)
    return rows.add_column("harmful", [harmful] * len(rows))


def _order(count: int, purpose: str, seed: int) -> list[int]:
    """Return a permutation that depends on nothing but its arguments."""
    order = list(range(count))
    # A string seeds through SHA-512, so the order does not depend on PYTHONHASHSEED; the purpose keeps draws apart.
    random.Random(f"{purpose} {seed}").shuffle(order)
    return order
