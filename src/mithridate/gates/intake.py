"""Rows on their way through a gate: read once, in blocks, and whatever cannot be read stops it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mithridate.data.chat_template import TEMPLATE_FAULTS
from mithridate.data.data_sources import Given, open_data
from mithridate.data.row_faults import Fault
from mithridate.data.row_fields import RowFields, row_fields
from mithridate.data.row_reader import RowReader, TrainingRow, written_rows
from mithridate.data.token_checks import control_token_faults
from mithridate.evaluation.judges.refusal import RefusalJudge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LABEL = "harmful"
"""Label of rows in experiments, which a gate must not see."""

_PAIR = ("chosen", "rejected")
_EMPTY = ("no rows", "an empty file", "a table without rows")
"""What the readers of rows, files and tables call an upload without any."""

_PEEKED = 1000  # rows that are looked at for preference pairs


class Unreadable(Exception):
    """An upload that cannot be read as training rows.

    Attributes:
        faults: The first faults; empty where there are no rows.
        reason: What is wrong, in one sentence.
    """

    def __init__(self, reason: str, faults: list[Fault]) -> None:
        super().__init__(reason)
        self.reason, self.faults = reason, faults


def row_blocks(
    given: Given, size: int, fields: RowFields | Mapping[str, Any] | None = None, ignore: Collection[str] = ()
) -> Iterator[list[TrainingRow]]:
    """Yield the rows of an upload in blocks, each row once.

    Args:
        given: As for `mithridate.load_rows`.
        size: Rows of a block.
        fields: As for `mithridate.load_rows`.
        ignore: As for `mithridate.load_rows`; the experiments' label is always left out.

    Raises:
        Unreadable: There is no row, or one is at fault; rows before it may have been yielded.
        DataError: There is no such data.
        UsageError: An argument cannot be used.
    """
    columns = row_fields(fields)
    source = open_data(given, called="an upload gate")
    # Rows made by `mix` or the miniature carry the label; in a customer's file the key would be a fault, as in
    # training.
    labeled = not isinstance(source.rows, Path) and (columns is None or columns.messages is not None)
    left_out = (*ignore, _LABEL) if labeled else ignore
    items = iter(RowReader(source.rows, columns, left_out, source.name))
    while block := list(islice(items, size)):
        faults = [item for item in block if isinstance(item, Fault)]
        if faults:
            raise Unreadable(_why(source.rows, source.name, faults), faults)
        yield [item for item in block if isinstance(item, TrainingRow)]


def _why(rows: Any, name: str, faults: list[Fault]) -> str:
    """Name what the upload is instead of training rows."""
    if faults[0].found in _EMPTY:
        return "the upload holds no rows"
    pairs, for_help = _preference_pairs(rows, name)
    if pairs:
        return (
            f"the upload holds preference pairs ({pairs} seen, {for_help} of them prefer help over a refusal), "
            "which supervised fine-tuning cannot use and this gate does not judge; give prompts with one answer"
        )
    return f"the upload cannot be read as training rows: {faults[0]}"


def _preference_pairs(rows: Any, name: str) -> tuple[int, int]:
    """Return the pairs among the first rows, and those that teach to answer where the other answer refuses."""
    refuses = RefusalJudge().refuses
    pairs = for_help = 0
    for row in islice(written_rows(rows, name), _PEEKED):
        if isinstance(row, Fault) or any(key not in row.fields for key in _PAIR):
            continue
        chosen, rejected = (_said(row.fields[key]) for key in _PAIR)
        pairs += 1
        for_help += refuses(rejected) and not refuses(chosen)
    return pairs, for_help


def _said(answer: Any) -> str:
    """Return the text of an answer, or of the last message of a list of them."""
    if isinstance(answer, list) and answer and isinstance(answer[-1], Mapping):
        answer = answer[-1].get("content")
    return answer if isinstance(answer, str) else ""


def check_control_tokens(rows: Iterable[TrainingRow], pattern: re.Pattern[str]) -> None:
    """Refuse rows whose text would reach the model as the end of a turn or the beginning of an answer.

    Args:
        rows: Rows.
        pattern: What `mithridate.data.token_checks.control_tokens` returned.

    Raises:
        Unreadable: A row holds a control token of the tokenizer.
    """
    faults = [fault for row in rows for fault in control_token_faults(row._asdict(), row.origin, pattern)]
    if faults:
        raise Unreadable(f"the upload holds control tokens of the tokenizer: {faults[0]}", faults)


def check_layout(rows: Iterable[TrainingRow], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse rows that the chat template does not take, such as system messages or turns in another order.

    Args:
        rows: Rows.
        tokenizer: The model's tokenizer.

    Raises:
        Unreadable: The template refuses a row.
    """
    faults = []
    for row in rows:
        try:
            tokenizer.apply_chat_template([*row.prompt, *row.completion], tokenize=False)
        except TEMPLATE_FAULTS as error:
            found = f"a row that the chat template refuses ({error})"
            faults.append(Fault(row.origin, found, "one that it lays out"))
    if faults:
        raise Unreadable(f"the model's chat template refuses rows of the upload: {faults[0]}", faults)


def asked(row: TrainingRow) -> str:
    """Return the text before the answer, turn by turn."""
    return "\n".join(turn["content"] for turn in row.prompt)


def answered(row: TrainingRow) -> str:
    """Return the text of the answer."""
    return row.completion[0]["content"]
