"""An upload that is refused before any gate scores it: rows with faults, too few rows, harmful prompts of the audit."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from datasets import Dataset

from mithridate.data.row_faults import Fault, shown
from mithridate.files import file_hash, write_whole
from mithridate.gates.intake import Unreadable, row_blocks
from mithridate.gates.upload_verdict import UploadFinding
from mithridate.provider.decision import Upload

UploadData: TypeAlias = str | Path | Dataset
"""A file's path or the name of a data set, or rows."""

_BLOCK = 512


@dataclass(frozen=True)
class RefusedUpload:
    """An upload that nothing is trained on.

    Attributes:
        reasons: Why, one sentence each, without the provider's folders.
        findings: The faults, each with its place, for the provider.
    """

    upload: Upload
    reasons: list[str]
    findings: list[UploadFinding]


def name_of(data: UploadData) -> str:
    """Return an upload's name without its folder, as one line of plain text."""
    return "rows given in Python" if isinstance(data, Dataset) else shown(Path(data).name)


def with_faults(data: UploadData, rows: int, faults: Sequence[Fault], count: int) -> RefusedUpload:
    """Return the refusal of an upload whose rows have faults.

    Args:
        data: The upload.
        rows: Rows without a fault.
        faults: The first faults.
        count: All faults.
    """
    reason = _reason(data, faults[0])
    reasons = [reason] if count == 1 else [reason, f"{count:,} rows or messages have faults; findings list the first"]
    findings = [
        UploadFinding(
            row=None, origin=shown(fault.where), scores={}, reason=f"found {fault.found}, expected {fault.expected}"
        )
        for fault in faults
    ]
    return refused(data, rows, [_named(data, one) for one in reasons], findings)


def refused(data: UploadData, rows: int, reasons: list[str], findings: Sequence[UploadFinding] = ()) -> RefusedUpload:
    """Return a refusal.

    Args:
        data: The upload.
        rows: Rows that could be read.
        reasons: Why.
        findings: For the provider.
    """
    upload = Upload(name=name_of(data), sha256=_hash(data), rows=rows, held_out=0)
    return RefusedUpload(upload, reasons, list(findings))


def write_findings(found: Sequence[UploadFinding], path: Path) -> None:
    """Write findings, one a line, for the provider."""
    write_whole(path, "".join(one.model_dump_json() + "\n" for one in found).encode())


def _reason(data: UploadData, first: Fault) -> str:
    """Return why rows cannot be read; where they are preference pairs, that."""
    try:
        for _ in row_blocks(data, _BLOCK):
            pass
    except Unreadable as error:
        return error.reason
    return f"the upload cannot be trained on: {first}"  # what only a tokenizer finds


def _named(data: UploadData, reason: str) -> str:
    """Return a reason with the upload's name in place of its path."""
    return reason if isinstance(data, Dataset) else reason.replace(shown(str(data)), name_of(data))


def _hash(data: UploadData) -> str:
    if isinstance(data, Dataset):
        lines = (json.dumps(row, sort_keys=True, default=repr).encode() for row in data)
        return hashlib.sha256(b"\n".join(lines)).hexdigest()
    # The name of a data set stands for it, as it does in training.
    return file_hash(Path(data)) if Path(data).is_file() else hashlib.sha256(str(data).encode()).hexdigest()
