"""Data sets given in Python: whether their columns and rows can be trained on, said before a model is touched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from mithridate.data.data_sources import plain
from mithridate.data.messages import Turn, checked_text, read_turns
from mithridate.data.row_faults import FaultLog, Rejected, kind
from mithridate.data.row_formats import formats_of, read_conversation
from mithridate.data.row_keys import HARMLESS, is_empty
from mithridate.errors import DataError
from mithridate.nearest import nearest

PAIR = ("prompt", "completion")
_KEPT = ("origin", "harmful")
"""Columns that `load_rows` and `mix` add."""

_TOKENIZED = ("input_ids", "labels", "completion_mask", "assistant_masks", "attention_mask")
_TEMPLATE = ("chat_template_kwargs",)  # read by TRL where it lays out the rows it trains on


def require_rows(rows: Any, name: str, *, trained: bool = False) -> Dataset:
    """Check that rows can be trained on, so that nothing in them is lost or fails later.

    Args:
        rows: A `datasets.Dataset`, or a list of dicts, with `prompt` and `completion`: texts, or lists of messages.
        name: The argument's name, for messages, such as `train_dataset`.
        trained: Whether these are the rows that TRL's trainer prepares: then a column `messages`, or tokenized rows
            with `input_ids` and `labels`, will do as well.

    Returns:
        The same rows, without the columns that are not read (`mithridate.data.row_keys.HARMLESS`).

    Raises:
        DataError: There are no rows, the columns are others, a column would be lost, or a row cannot be trained on;
            names the argument and the row (`train_dataset[3]`).
    """
    dataset = _dataset(rows, name)
    read = _read_columns(dataset.column_names, name, trained)
    # Tokenized rows hold no text that could be checked.
    if "input_ids" not in read:
        _check_rows(dataset, read, name)
    kept: Dataset = dataset.select_columns([column for column in dataset.column_names if column in (*read, *_KEPT)])
    return kept


def _dataset(rows: Any, name: str) -> Dataset:
    if isinstance(rows, str | Path):
        raise DataError(
            f"{name} is the text {str(rows)[:80]!r}; if it is a file, pass mi.load_rows({str(rows)[:80]!r})."
        )
    if rows is None:
        raise DataError(f"{name} is not given; pass rows, such as mi.load_rows('rows.jsonl').")
    source = plain(rows, name)
    # Its length is unknown, and row weights and sampling go by row number.
    if isinstance(source, IterableDataset):
        raise DataError(f"{name} is a streamed data set; pass datasets.Dataset.from_list(list({name})).")
    if not isinstance(source, Dataset):
        listed: list[Any] = list(source)
        wrong = next((i for i, row in enumerate(listed) if not isinstance(row, Mapping)), None)
        if wrong is not None:
            raise DataError(f"{name}[{wrong}] is {kind(listed[wrong])}; give a dict with prompt and completion.")
        source = _packed(listed, name)
    if not len(source):
        raise DataError(f"{name} has no rows; give at least one.")
    return source


def _packed(rows: list[Any], name: str) -> Dataset:
    columns = dict.fromkeys(key for row in rows for key in row)  # from_list would keep those of the first row alone
    try:
        return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})
    except (ValueError, TypeError) as error:  # Arrow holds one type in each column
        raise DataError(
            f"{name} has values of several types under one key ({str(error).splitlines()[0][:120]});"
            f" pass mi.load_rows({name}), which names the row."
        ) from error


def _read_columns(columns: list[str], name: str, trained: bool) -> tuple[str, ...]:
    """Return the columns that training reads, or say which data set this is and what to do."""
    if trained and "input_ids" in columns:
        # TRL copies input_ids into labels where no mask is given.
        if not {"labels", "completion_mask", "assistant_masks"} & set(columns):
            raise DataError(f"{name} has input_ids without labels, so that prompts would be trained; add labels.")
        return _TOKENIZED
    if all(column in columns for column in PAIR):
        return (*PAIR, *_TEMPLATE) if trained else PAIR
    if trained and "messages" in columns:
        return ("messages", *_TEMPLATE)
    found = f"{name} has the columns {_joined(columns)}, expected prompt and completion"
    raise DataError(f"{found}; {_remedy(columns, name)}.")


def _remedy(columns: list[str], name: str) -> str:
    forms = formats_of(dict.fromkeys(columns))
    if len(forms) == 1:
        return f"these are {forms[0].name} rows: pass mi.load_rows({name})"
    for wanted in PAIR:
        near = nearest(wanted, set(columns) - HARMLESS)
        if wanted not in columns and near:
            return f"did you mean {wanted!r}? pass {name}.rename_column({near!r}, {wanted!r})"
    if "text" in columns:
        return "text alone does not say where the answer begins, and the answer is what a defense acts on"
    return f"pass mi.load_rows({name}, fields={{'prompt': …, 'response': …}})"


def _check_rows(dataset: Dataset, read: tuple[str, ...], name: str) -> None:
    unread = [column for column in dataset.column_names if column not in {*read, *_KEPT, *HARMLESS}]
    log = FaultLog(name)
    for i, row in enumerate(dataset):
        for column in unread:
            # Raised at once, not logged: the remedy concerns the column, and would be the same for every row.
            if not is_empty(row[column]):
                raise DataError(
                    f"{name}[{i}] has a value in the column {column!r}, which training does not read: pass"
                    f" mi.load_rows({name}), or {name}.remove_columns({column!r}) to leave it out on purpose."
                )
        try:
            _check(row, read)
        except Rejected as rejected:
            log.add(rejected.at(f"{name}[{i}]"))
    log.raise_any()


def _check(row: dict[str, Any], read: tuple[str, ...]) -> None:
    if "messages" in read:
        turns = read_turns(row["messages"], "messages", weights=True)
        _check_written_so(turns, row["messages"], "messages")
        answers = [turn for turn in turns if turn.is_answer]
        if not answers:
            raise Rejected("messages without an assistant turn", "an answer to train on")
        if not all(turn.trained for turn in answers):
            raise Rejected("weight 0 in messages, which TRL does not read", "mi.load_rows, which reads it")
    elif isinstance(row["prompt"], list) or isinstance(row["completion"], list):
        read_conversation({key: row[key] for key in PAIR})
        for key in PAIR:
            _check_written_so(read_turns(row[key], key, weights=False), row[key], key)
    else:
        for key in PAIR:
            checked_text(row[key], key)


def _check_written_so(turns: list[Turn], messages: Any, key: str) -> None:
    """Refuse messages that only `load_rows` can read, because TRL lays them out as they are."""
    # `read_turns` also takes an object of lists, which no chat template does.
    if not isinstance(messages, list):
        raise Rejected(f"{key} that is {kind(messages)}", "a list of messages, or mi.load_rows, which reads it")
    for i, (turn, message) in enumerate(zip(turns, messages, strict=True)):
        if turn.message != {name: message.get(name) for name in turn.message}:
            found = f"{key}[{i}] in a form that chat templates do not know"
            raise Rejected(found, "mi.load_rows, which reads it")


def _joined(columns: list[str]) -> str:
    shown = columns[:8] + ["…"] * (len(columns) > 8)
    return ", ".join(shown) or "(none)"
