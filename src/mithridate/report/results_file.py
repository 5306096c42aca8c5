"""Reading `results.json`, with one clear sentence for a file that cannot be used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mithridate.errors import DataError
from mithridate.report.results import Results

Source = Results | Mapping[str, Any] | Path

REMEDY = "write it again with `mithridate run`"


def load_results(source: Source) -> Results:
    """Return validated results.

    Args:
        source: Results, the tree they are stored as, or the path of a `results.json`.

    Raises:
        DataError: The file cannot be read, is not JSON, or lacks a required part.
    """
    if isinstance(source, Results):
        return source
    if isinstance(source, Path):
        return _validated(_parsed(source), str(source))
    return _validated(source, "results")


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name the results.json of a run") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 at byte {error.start}; {REMEDY}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: is not JSON ({error.msg}, column {error.colno}); {REMEDY}") from error
    except RecursionError as error:
        raise DataError(f"{path}: is nested too deeply to be a results.json; {REMEDY}") from error


def _validated(tree: Any, where: str) -> Results:
    try:
        return Results.model_validate(tree)
    except ValidationError as error:
        # One fault is named: results are written by a program, and a broken file has many from one cause.
        first, *others = error.errors(include_url=False, include_context=False)
        place = ".".join(str(step) for step in first["loc"]) or "top level"
        more = f" (and {len(others)} more)" if others else ""
        raise DataError(f"{where}: {place}: {first['msg']}{more}; {REMEDY}") from error
