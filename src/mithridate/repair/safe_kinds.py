"""Kinds of the provider's safe rows: refusals, and answers to harmless prompts; and what is kept aside of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mithridate.errors import DefenseError
from mithridate.evaluation.judges import RefusalJudge


def by_kind(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Sort rows into those whose completion refuses and those whose completion answers, by rules on its opening.

    A refusal that the rules miss is taken for an answer; the kinds then differ less than they could.

    Args:
        rows: Prompt/completion rows.

    Returns:
        The rows in their order by ``refusals`` and ``answers``, without a kind that no row is of.
    """
    rules = RefusalJudge()
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kind = "refusals" if rules.refuses(_said(row["completion"])) else "answers"
        kinds.setdefault(kind, []).append(row)
    return kinds


class SplitRows(NamedTuple):
    """The provider's safe rows, split into those to measure on and those to train on.

    Attributes:
        measured: Rows that are not trained on.
        trained: The others, without copies of these, which would tell what was learned by heart.
    """

    measured: list[Mapping[str, Any]]
    trained: list[Mapping[str, Any]]


def split(rows: Sequence[Mapping[str, Any]], aside: int) -> SplitRows:
    """Keep some rows aside to measure on, and among them each kind.

    The first rows, unless a kind is not among them or not among the others: it would have no budget, or not be trained
    on. Each kind then gives the same share of its rows.

    Args:
        rows: Safe rows in a random order.
        aside: How many to keep aside.

    Raises:
        DefenseError: If nothing is left to train on, or a kind has too few rows.
    """
    found = _split(rows, rows[:aside])
    if not found.trained:
        raise DefenseError(
            f"'auto' needs more than {aside} safe rows, since it measures on {aside} that it does not train on, "
            f"and was given {len(rows)}; give more that differ, or a learning rate and a number of rows"
        )
    kinds = by_kind(rows)
    if by_kind(found.measured).keys() == by_kind(found.trained).keys() == kinds.keys():
        return found
    return _split(rows, [row for kind, its in kinds.items() for row in _share(kind, its, aside / len(rows))])


def _share(kind: str, rows: Sequence[Mapping[str, Any]], share: float) -> list[Mapping[str, Any]]:
    """Return a share of the rows of a kind, at least one, and not all that differ."""
    differing: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        differing.setdefault(_content(row), row)
    if len(differing) < 2:
        raise DefenseError(
            f"'auto' measures on some {kind} and trains on others, and the safe rows hold only one that differs; give "
            f"more {kind} or none, or a learning rate and a number of rows"
        )
    return list(differing.values())[: max(1, min(round(share * len(rows)), len(differing) - 1))]


def _split(rows: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]) -> SplitRows:
    contents = set(map(_content, measured))
    return SplitRows(list(measured), [row for row in rows if _content(row) not in contents])


def _content(row: Mapping[str, Any]) -> str:
    """Return what a row asks and answers; other columns, such as its origin, tell copies apart that are none."""
    return json.dumps([row["prompt"], row["completion"]], sort_keys=True)


def _said(completion: Any) -> str:
    """Return the first answer of a completion, which is a text or a list of messages."""
    if isinstance(completion, str):
        return completion
    return next((str(message["content"]) for message in completion if message["role"] == "assistant"), "")
