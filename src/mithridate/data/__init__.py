"""Data: rows read strictly from files, mixed, compared, trimmed and rendered for a model.

Names are loaded on first use, so that the command line starts without the packages behind them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mithridate.data.chat_template import ensure_chat_template
    from mithridate.data.check import FileReport, validate_file
    from mithridate.data.control_tokens import refuse_control_tokens
    from mithridate.data.faults import Fault
    from mithridate.data.fields import RowFields
    from mithridate.data.given import require_rows
    from mithridate.data.mixing import Split, mix, split_rows
    from mithridate.data.overlap import check_disjoint
    from mithridate.data.rows import FEATURES, load_rows
    from mithridate.data.sources import open_rows, read_prompts
    from mithridate.data.trimming import Trimmed, trim_report

__all__ = [
    "FEATURES",
    "Fault",
    "FileReport",
    "RowFields",
    "Split",
    "Trimmed",
    "check_disjoint",
    "ensure_chat_template",
    "load_rows",
    "mix",
    "open_rows",
    "read_prompts",
    "refuse_control_tokens",
    "require_rows",
    "split_rows",
    "trim_report",
    "validate_file",
]

_HOMES = {
    "FEATURES": "rows",
    "Fault": "faults",
    "FileReport": "check",
    "RowFields": "fields",
    "Split": "mixing",
    "Trimmed": "trimming",
    "check_disjoint": "overlap",
    "ensure_chat_template": "chat_template",
    "load_rows": "rows",
    "mix": "mixing",
    "open_rows": "sources",
    "read_prompts": "sources",
    "refuse_control_tokens": "control_tokens",
    "require_rows": "given",
    "split_rows": "mixing",
    "trim_report": "trimming",
    "validate_file": "check",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
