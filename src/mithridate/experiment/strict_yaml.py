"""Reads YAML and refuses what PyYAML accepts silently, such as a key given twice, or fails at with a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mithridate.errors import RecipeError

LIMIT = 4 << 20
"""Most bytes of a file of settings, so that weights or rows named by mistake are not read as YAML for minutes."""


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; keys that `<<` merges in may be overridden."""
        # Before the parent's own work, which puts merged keys among the others, where they would look like doubles.
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise RecipeError(f"line {key.start_mark.line + 1}: the key '{key.value}' is given twice")
                seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        RecipeError: Naming the line where the file is not UTF-8, is not YAML, or gives a key twice.
        FileNotFoundError: There is no such file.
    """
    text = _text(path)
    try:
        return load_yaml(text)
    except RecipeError as error:
        raise RecipeError(f"{path}, {error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not readable YAML: {_fault(error)}") from error


def load_yaml(text: str) -> Any:
    """Read YAML from a text.

    Raises:
        RecipeError: A key is given twice, the text is nested too deeply, or a value cannot be read.
        yaml.YAMLError: The text is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    # PyYAML calls itself for every level.
    except RecursionError as error:
        raise RecipeError("line 1: the settings are nested too deeply") from error
    except ValueError as error:  # dates such as 2026-13-99, and numbers of thousands of digits
        raise RecipeError(f"line 1: a value cannot be read ({str(error)[:80]}); put it in quotes") from error


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LIMIT:
            raise RecipeError(f"{path} has more than {LIMIT >> 20} MB; give a YAML file of settings")
        # Editors on Windows put a byte order mark first, which YAML would take for part of the first key.
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from error
    except FileNotFoundError:
        raise  # the caller knows what to suggest
    except IsADirectoryError as error:
        raise RecipeError(f"{path} is a folder; give a YAML file of settings") from error
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    # After UnicodeDecodeError, which is a ValueError too.
    except ValueError as error:
        raise RecipeError("the file's name holds a NUL; give a path") from error


def _fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    # Faults of the reader, such as a control character, have no mark; their text runs over several lines.
    if mark is None:
        return " ".join(str(error).split())[:200]
    problem = str(getattr(error, "problem", ""))
    if "'\\t'" in problem:
        # PyYAML says only that the character "cannot start any token".
        problem = "a tab; YAML takes blanks at the start of a line and between keys and values"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
