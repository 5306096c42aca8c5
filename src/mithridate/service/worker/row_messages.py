"""The faults of a file's rows as a client sees them: by line, without any path of the provider's machine."""

import re
from collections.abc import Iterable

from mithridate.data.row_faults import Fault
from mithridate.service.contract.file_objects import RowError

TOO_LONG = "a prompt that fills max_length"

_CODES = (
    ("invalid JSON", "invalid_json"),
    ("text that is not JSON", "invalid_json"),
    ("JSON nested", "invalid_json"),
    ("a number of more than", "invalid_json"),
    ("byte 0x", "invalid_encoding"),
    ("a NUL byte", "invalid_encoding"),
    ("UTF-16", "invalid_encoding"),
    ("a line over the limit", "row_too_long"),
    (TOO_LONG, "row_too_long"),
    ("an empty file", "empty_file"),
)
"""Codes by how a fault begins; any other is ``invalid_row``."""


def row_errors(faults: Iterable[Fault]) -> list[RowError]:
    """Return faults as a client sees them."""
    found = []
    for fault in faults:
        line = re.search(r":(\d+)(?:#\d+)?$", fault.where)
        code = next((code for start, code in _CODES if fault.found.startswith(start)), "invalid_row")
        message = f"found {fault.found}, expected {fault.expected}"
        found.append(RowError(line=int(line[1]) if line else 1, code=code, message=message))
    return found


def rows_sentence(rows: list[RowError], count: int) -> str:
    """Return the faults of a file in one sentence."""
    first = rows[0]
    more = f" ({count - 1} more {'line' if count == 2 else 'lines'} with faults)" if count > 1 else ""
    return f"line {first.line}: {first.message}{more}"
