"""Data: rows read strictly from files, mixed, compared, trimmed and rendered for a model.

Names are loaded on first use, so that the command line starts without the packages behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mithridate.lazy_names import lazy_names

# For type checkers and editors alone; at run time `_HOMES` says where a name lives.
if TYPE_CHECKING:
    from mithridate.data.chat_template import ensure_chat_template
    from mithridate.data.mixing import RowSplit, mix, split_rows
    from mithridate.data.overlap import check_disjoint
    from mithridate.data.prompt_sets import read_prompts
    from mithridate.data.row_faults import Fault
    from mithridate.data.row_fields import RowFields
    from mithridate.data.row_loading import FEATURES, load_rows
    from mithridate.data.token_checks import ContextFit, refuse_control_tokens
    from mithridate.data.trainer_rows import require_rows
    from mithridate.data.upload_check import TokenReport, UploadReport, check_upload

__all__ = [
    "FEATURES",
    "ContextFit",
    "Fault",
    "RowFields",
    "RowSplit",
    "TokenReport",
    "UploadReport",
    "check_disjoint",
    "check_upload",
    "ensure_chat_template",
    "load_rows",
    "mix",
    "read_prompts",
    "refuse_control_tokens",
    "require_rows",
    "split_rows",
]

_HOMES = {
    "FEATURES": "row_loading",
    "ContextFit": "token_checks",
    "Fault": "row_faults",
    "RowFields": "row_fields",
    "RowSplit": "mixing",
    "TokenReport": "upload_check",
    "UploadReport": "upload_check",
    "check_disjoint": "overlap",
    "check_upload": "upload_check",
    "ensure_chat_template": "chat_template",
    "load_rows": "row_loading",
    "mix": "mixing",
    "read_prompts": "prompt_sets",
    "refuse_control_tokens": "token_checks",
    "require_rows": "trainer_rows",
    "split_rows": "mixing",
}

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept every name
    __getattr__ = lazy_names(__name__, _HOMES)
