"""One file per defense module: every method once more, slow and plain, and how it is tested."""

import importlib
import pkgutil

from tests.matrix.row import Row


def rows() -> dict[str, Row]:
    """The row of every method, from all files of this folder."""
    found: dict[str, Row] = {}
    for module in pkgutil.iter_modules(__path__):
        found |= importlib.import_module(f"{__name__}.{module.name}").ROWS
    return found
