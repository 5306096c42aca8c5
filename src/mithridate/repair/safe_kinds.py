"""Kinds of the provider's safe rows: refusals, and answers to harmless prompts."""

from collections.abc import Mapping, Sequence
from typing import Any

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


def _said(completion: Any) -> str:
    """Return the first answer of a completion, which is a text or a list of messages."""
    if isinstance(completion, str):
        return completion
    return next((str(message["content"]) for message in completion if message["role"] == "assistant"), "")
