"""Preference pairs as a `datasets.Dataset`, and both of their answers as rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from datasets import Dataset, Features, Value

from mithridate.data.data_sources import Given, open_data
from mithridate.data.preferences import PREFERENCES
from mithridate.data.row_faults import Fault, FaultLog
from mithridate.data.row_reader import RowReader, TrainingRow

_MESSAGES = [{"role": Value("string"), "content": Value("string")}]
FEATURES_OF_PAIRS = Features(
    {"prompt": _MESSAGES, "completion": _MESSAGES, "rejected": _MESSAGES, "origin": Value("string")}
)
"""Columns of a set of pairs: those of any rows, with the preferred answer as the completion, and ``rejected``."""


def load_preferences(source: Given) -> Dataset:
    """Read preference pairs, strictly and one by one.

    Args:
        source: As for `load_rows`.

    Returns:
        Pairs with ``prompt`` (messages), ``completion`` (the preferred answer), ``rejected`` (the other one) and
        ``origin``.

    Raises:
        DataError: The pairs cannot be read or have faults.
    """
    found = open_data(source, subset=None, split=None, called="load_preferences")
    log = FaultLog(found.name)
    pairs = list(_pairs(RowReader(found.rows, name=found.name, form=PREFERENCES), log))
    log.raise_any()
    return Dataset.from_list(pairs, features=FEATURES_OF_PAIRS)


def _pairs(reader: RowReader, log: FaultLog) -> Iterator[dict[str, Any]]:
    rows: list[TrainingRow] = []
    for item in reader:
        if isinstance(item, Fault):
            log.add(item)
        elif not log.count:
            rows.append(item)
    for place, (preferred, other) in enumerate(pairwise(rows)):
        if place % 2 == 0:
            origin = preferred.origin.removesuffix("#1")
            yield {
                "prompt": preferred.prompt,
                "completion": preferred.completion,
                "rejected": other.completion,
                "origin": origin,
            }


def both_answers(pairs: Dataset) -> list[dict[str, Any]]:
    """Return each answer of some pairs as a row of its own, as whoever screens rows reads them.

    Args:
        pairs: What `load_preferences` returned.
    """
    return [
        {"prompt": pair["prompt"], "completion": answer, "origin": f"{pair['origin']}#{number}"}
        for pair in pairs
        for number, answer in enumerate((pair["completion"], pair["rejected"]), 1)
    ]
