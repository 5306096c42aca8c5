"""The check of an upload: what is in it and what is wrong with it, without holding it in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from mithridate.data.data_sources import Given, is_miniature, open_data
from mithridate.data.preferences import PREFERENCES
from mithridate.data.row_faults import Fault, FaultLog
from mithridate.data.row_fields import RowFields, row_fields
from mithridate.data.row_reader import RowReader, TrainingRow
from mithridate.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mithridate.data.token_checks import ContextFit

_BATCH = 1000  # rows that are tokenized together


@dataclass(frozen=True)
class TokenReport:
    """How the rows fit into a model's context.

    Attributes:
        max_length: Tokens kept of each row.
        total: Tokens of all rows, before anything is cut.
        longest: Tokens of the longest row.
        truncated: Rows whose completion is cut.
        dropped: Rows that lose their whole completion.
        dropped_origins: Origins of the first 20 of them.
        unusable: What is wrong, where more than a fifth of the rows is lost; None otherwise.
    """

    max_length: int
    total: int
    longest: int
    truncated: int
    dropped: int
    dropped_origins: tuple[str, ...]
    unusable: str | None


@dataclass(frozen=True)
class UploadReport:
    """What a check of one upload found.

    Attributes:
        path: The file or data set as given.
        format: Name of the row format; None where no row is valid.
        rows: Valid training rows; a conversation counts once for each completion that it trains.
        conversations: Valid rows of the file, from which the training rows were made.
        fault_count: All faults.
        faults: The first 20 of them.
        longest_prompt: Characters in the longest prompt, all its turns together.
        longest_completion: Characters in the longest completion.
        duplicated_prompts: Rows whose prompt stood in an earlier row.
        tokens: How the rows fit into the context, where a tokenizer was given.
    """

    path: str
    format: str | None
    rows: int
    conversations: int
    fault_count: int
    faults: tuple[Fault, ...]
    longest_prompt: int
    longest_completion: int
    duplicated_prompts: int
    tokens: TokenReport | None = None

    @property
    def ok(self) -> bool:
        """Whether the file can be used."""
        return not self.fault_count and (self.tokens is None or self.tokens.unusable is None)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {"ok": self.ok} | asdict(self) | {"faults": [fault._asdict() for fault in self.faults]}


def check_upload(
    source: Given,
    fields: RowFields | Mapping[str, Any] | None = None,
    ignore: Collection[str] = (),
    *,
    subset: str | None = None,
    split: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int = 1024,
    preferences: bool = False,
    progress: Callable[[int], None] | None = None,
) -> UploadReport:
    """Check every row of an upload; faults are reported, not raised.

    Memory does not grow with the file, save 16 bytes for each different prompt.

    Args:
        source: As for `load_rows`.
        fields: As for `load_rows`.
        ignore: As for `load_rows`.
        subset: As for `load_rows`.
        split: As for `load_rows`.
        tokenizer: A tokenizer with a chat template, to count tokens and look for control tokens too.
        max_length: Tokens kept of each row.
        preferences: Whether the rows are preference pairs, of which each answer counts as a row.
        progress: Called with the number of rows done, every 1000 rows.

    Raises:
        DataError: There is no data set of that name, or not one split of it is chosen.
        UsageError: An argument cannot be used.
    """
    columns = row_fields(fields)
    if preferences and columns is not None:
        raise UsageError("preference pairs have keys of their own, which fields cannot name; leave one of them out")
    found = open_data(source, subset=subset, split=split, called="check_upload")
    if is_miniature(found, columns, ignore):
        ignore = ("harmful",)  # a label for the experiments, which training does not see
    reader = RowReader(found.rows, columns, ignore, found.name, PREFERENCES if preferences else None)
    counts = _Counts(found.name, tokenizer, max_length)
    items = iter(reader)
    done = 0
    while batch := list(islice(items, _BATCH)):
        counts.add(batch)
        done += len(batch)
        if progress is not None:
            progress(done)
    return counts.report(reader)


class _Counts:
    """Counts over the rows read so far."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase | None, max_length: int):
        self.name = name
        self.log = FaultLog(name)
        self.rows = self.longest_prompt = self.longest_completion = 0
        self._prompts: set[bytes] = set()
        self._fit: ContextFit | None = None
        if tokenizer is not None:
            # Here, because only tokens need jinja2; a check of rows alone starts without it.
            from mithridate.data.token_checks import ContextFit

            self._fit = ContextFit(tokenizer, max_length)

    def add(self, batch: list[TrainingRow | Fault]) -> None:
        rows = []
        for item in batch:
            if isinstance(item, Fault):
                self.log.add(item)
            else:
                rows.append(item)
                self._count(item)
        if self._fit is not None and rows:
            for fault in self._fit.add([row._asdict() for row in rows]):
                self.log.add(fault)

    def _count(self, row: TrainingRow) -> None:
        self.rows += 1
        self._prompts.add(_fingerprint(row))
        self.longest_prompt = max(self.longest_prompt, sum(len(turn["content"]) for turn in row.prompt))
        self.longest_completion = max(self.longest_completion, len(row.completion[0]["content"]))

    def report(self, reader: RowReader) -> UploadReport:
        return UploadReport(
            path=self.name,
            # With `fields` the format is known before any row, even if none is valid.
            format=reader.format.name if reader.format and self.rows else None,
            rows=self.rows,
            conversations=reader.read,
            fault_count=self.log.count,
            faults=tuple(self.log.listed),
            longest_prompt=self.longest_prompt,
            longest_completion=self.longest_completion,
            duplicated_prompts=self.rows - len(self._prompts),
            tokens=self._tokens(),
        )

    def _tokens(self) -> TokenReport | None:
        fit = self._fit
        if fit is None:
            return None
        origins = tuple(fit.dropped_origins)
        return TokenReport(fit.max_length, fit.tokens, fit.longest, fit.truncated, fit.dropped, origins, fit.unusable)


def _fingerprint(row: TrainingRow) -> bytes:
    # As JSON, which keeps roles and texts apart; 16 bytes make a chance collision out of the question.
    return hashlib.blake2b(json.dumps(row.prompt).encode(), digest_size=16).digest()
