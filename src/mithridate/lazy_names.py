"""Names of a package that are loaded on first use, so that it can be imported without what they need."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return what a package's ``__getattr__`` is to be.

    Args:
        package: The package's name.
        homes: Modules within it, by the names that they hold.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return load
