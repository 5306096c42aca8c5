"""Control tokens inside a row's text, with which an upload could speak in another role's name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mithridate.data.faults import LISTED, Fault, listing, show
from mithridate.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def refuse_control_tokens(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse conversations whose text holds one of the tokenizer's special tokens.

    Such text is not read as text: it would reach the model as the token that ends a turn or begins an answer.

    Args:
        rows: Rows with `prompt` and `completion`, or `messages`, as message lists; texts without roles are left out.
        tokenizer: The tokenizer they are trained with.

    Raises:
        DataError: Naming each such row, message and token.
    """
    marks = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    marks |= set(tokenizer.all_special_tokens)
    pattern = re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True)) or "(?!)")
    faults = [fault for position, row in enumerate(rows) for fault in _faults(row, position, pattern)]
    if faults:
        head = f"{len(faults)} messages hold control tokens of the tokenizer; remove or rewrite them"
        raise DataError(listing(head, [str(fault) for fault in faults[:LISTED]], len(faults)))


def _faults(row: Mapping[str, Any], position: int, pattern: re.Pattern[str]) -> Iterable[Fault]:
    where = str(row.get("origin") or f"row {position}")
    for key in ("prompt", "completion", "messages"):
        messages = row.get(key)
        for number, message in enumerate(messages if isinstance(messages, list) else []):
            if found := pattern.search(message.get("content") or ""):
                yield Fault(where, f"the control token {show(found[0])} in {key}[{number}]", "text alone")
