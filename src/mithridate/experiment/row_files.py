"""Reads rows, prompts and refusals from where a recipe or policy names them, and stores them under their own hash."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from mithridate.data import load_rows, read_prompts
from mithridate.data.refusal_sets import MINIATURE_REFUSALS, read_refusals
from mithridate.data.refusals import REFUSALS
from mithridate.errors import DataError, UsageError
from mithridate.experiment.jobs import StoredRows
from mithridate.experiment.recipe_rows import PromptSource, Source, Sources, resolved_path
from mithridate.files import file_hash, write_whole


class RowFiles:
    """Reads sources, and keeps what was read as files.

    Args:
        base: Folder in which relative paths are looked up first.
        folder: Where to write the files.
    """

    def __init__(self, base: Path, folder: Path) -> None:
        self._base, self._folder = base, folder
        folder.mkdir(parents=True, exist_ok=True)

    def rows(self, sources: Sources, key: str) -> Dataset:
        """Return the rows of some sources, one after the other.

        Args:
            sources: One source or several.
            key: Where they are named, for messages.
        """
        several = sources if isinstance(sources, list) else [sources]
        parts = [_slice(self._loaded(one, key), one) for one in several]
        return parts[0] if len(parts) == 1 else concatenate_datasets(parts)

    def prompts(self, sources: PromptSource | list[PromptSource], key: str) -> tuple[list[str], list[str] | None]:
        """Return the prompts of some sources, and the group of each where they have one."""
        several = sources if isinstance(sources, list) else [sources]
        parts = [(source.group, self._prompts_of(source, key)) for source in several]
        groups = [group for group, prompts in parts if group is not None for _ in prompts]
        return [prompt for _, prompts in parts for prompt in prompts], groups or None

    def _prompts_of(self, source: Source, key: str) -> list[str]:
        # A set of prompts may be a text file, which has no columns for `fields` to name.
        if source.fields is None:
            found = read_prompts(self.path(source.source, key), source.ignore, subset=source.subset, split=source.split)
            return list(_slice(found, source))
        return [prompt[-1]["content"] for prompt in _slice(self._loaded(source, key), source)["prompt"]]

    def _loaded(self, source: Source, key: str) -> Dataset:
        path, choice = self.path(source.source, key), {"subset": source.subset, "split": source.split}
        return load_rows(path, source.fields, source.ignore, **choice)

    def path(self, name: str, key: str) -> str:
        """Return where a named file or data set is: in the base folder first, with ``$MITHRIDATE_DATA`` filled in."""
        return resolved_path(name, self._base, key)

    def refusals(self, wanted: str | list[str]) -> list[str]:
        """Return refusal sentences.

        Args:
            wanted: ``default``, ``miniature:refusals``, a text file with one a line, or a list.
        """
        if isinstance(wanted, list):
            blank = [i for i, text in enumerate(wanted) if not text.strip()]
            if blank or not wanted:
                raise DataError(f"streams.refusals{f'.{blank[0]}' if blank else ''} is empty; give refusal sentences")
            return wanted
        if wanted == "default":
            return REFUSALS
        source = wanted if wanted == MINIATURE_REFUSALS else resolved_path(wanted, self._base, "streams.refusals")
        return read_refusals(source, "streams.refusals")

    def keep_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> StoredRows:
        """Store rows."""
        return self._store(name, (json.dumps(row, ensure_ascii=False) for row in rows))

    def keep_texts(self, name: str, texts: Sequence[str]) -> StoredRows:
        """Store texts."""
        return self._store(name, (json.dumps(text, ensure_ascii=False) for text in texts))

    def keep_groups(self, name: str, groups: Sequence[str] | None) -> StoredRows | None:
        """Store the groups of a set of prompts, where it has some."""
        return None if groups is None else self.keep_texts(f"{name}-groups", groups)

    def _store(self, name: str, lines: Any) -> StoredRows:
        content = "".join(line + "\n" for line in lines).encode()
        digest = hashlib.sha256(content).hexdigest()
        # With the hash in its name, so that another recipe with the same --out overwrites none of these files.
        path = self._folder / f"{name}-{digest[:20]}.jsonl"
        # The contents are compared as well: a file that was altered since would stop the stages that read it.
        if not path.is_file() or file_hash(path) != digest:
            write_whole(path, content)
        return StoredRows(path=str(path), sha256=digest)


def _slice(rows: Any, source: Source) -> Any:
    """Return the wanted rows of a source, in its order."""
    end = len(rows) if source.size is None else source.start + source.size
    # Fewer rows than asked for would pass unnoticed and change n, and with it every figure.
    if source.start >= len(rows) or end > len(rows):
        raise UsageError(
            f"{source.source} has {len(rows)} rows, but the recipe takes rows {source.start + 1} to "
            f"{max(end, source.start + 1)}; lower `start` or `size`"
        )
    return rows.select(range(source.start, end)) if isinstance(rows, Dataset) else rows[source.start : end]


def stored_rows(stored: StoredRows) -> Dataset:
    """Read rows that `RowFiles` wrote.

    Raises:
        DataError: If the file was altered since.
    """
    return Dataset.from_list(_lines(stored))


def stored_texts(stored: StoredRows) -> list[str]:
    """Read texts that `RowFiles` wrote.

    Raises:
        DataError: If the file was altered since.
    """
    return _lines(stored)


def _lines(stored: StoredRows) -> list[Any]:
    path = Path(stored.path)
    if not path.is_file() or file_hash(path) != stored.sha256:
        raise DataError(f"{path} is missing or was altered during the run; run the same command again")
    # Not splitlines, which also ends a line at U+2028 and others that JSON leaves as they are within a text.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
