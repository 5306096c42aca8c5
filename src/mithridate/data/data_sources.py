"""What a user may name or hand over as data: a file, a folder, a hub data set, rows, or the embedded world."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mithridate.errors import DataError, UsageError

if TYPE_CHECKING:
    from datasets import Dataset

MINIATURE = "miniature:"
# Length and letters as huggingface_hub's repo id check has them.
_HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_ADDRESS = re.compile(r"[a-z0-9]+://", re.IGNORECASE)
DATA_FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Endings of the files that can be read as rows, some also with `.gz` behind."""

_FILES = (*DATA_FILES, ".txt", ".gz", ".xlsx", ".arrow", ".zip")  # a missing file, not a data set of the hub

Given = str | Path | Iterable[Mapping[str, Any]]
"""A file's or folder's path, a hub data set's name, `miniature:…`, a `datasets.Dataset` or `DatasetDict`, or dicts."""


class DataSource(NamedTuple):
    """Rows that are ready to be read.

    Attributes:
        rows: A file to read line by line, or rows.
        name: Prefix of `[i]` in the origin of rows that do not come from a file.
    """

    rows: Path | Iterable[Mapping[str, Any]]
    name: str


def is_hub_name(name: str) -> bool:
    """Tell whether a name that exists in no folder here can be that of a hub data set: org/name."""
    return (
        _HUB.fullmatch(name) is not None
        and ".." not in name
        and not name.lower().endswith(_FILES)
        and not Path(name).exists()
        # An existing folder `data` shows that `data/rows` is a path with a typo, not a data set.
        and not Path(name.split("/")[0]).is_dir()
    )


def open_data(given: Given, *, subset: str | None = None, split: str | None = None, called: str) -> DataSource:
    """Return the rows that a user named or handed over.

    Args:
        given: Where the rows are.
        subset: Subset (also called configuration) of a hub data set.
        split: Split, such as `train`; needed where there are several.
        called: Name of the function, for messages.

    Raises:
        DataError: There are no rows, or there are several splits and none is chosen.
        UsageError: `subset` or `split` has no effect, or does not exist.
    """
    if not isinstance(given, str | Path):
        if subset is not None:
            raise UsageError("subset has no effect on rows; it is for the name of a hub data set.")
        return DataSource(_rows(given, split, called), f"rows:{split}" if split else "rows")
    name = str(given)
    if name.startswith(MINIATURE):
        _refuse_choice(name, subset, split)
        from mithridate.miniature import rows  # built on first use, and nobody else pays for it

        return DataSource(rows(name), name)
    if _ADDRESS.match(name):
        raise UsageError(
            f"{name} is an address; download the file and give its path, or name a hub data set: org/name."
        )
    if is_hub_name(name) or _is_folder(given):
        # Here, because the check of a plain file should load neither `datasets` nor the hub's client.
        from mithridate.data.hub_data import load_folder, load_hub

        load = load_folder if _is_folder(given) else load_hub
        return load(name, subset, split)
    _refuse_choice(name, subset, split)
    return DataSource(Path(given), name)


def is_miniature(source: DataSource, fields: object, ignore: object) -> bool:
    """Tell whether rows belong to the embedded world, which has them as training rows already.

    Raises:
        UsageError: If they do, and `fields` or `ignore` is given.
    """
    if not source.name.startswith(MINIATURE):
        return False
    if fields or ignore:
        setting = "fields" if fields else "ignore"
        raise UsageError(f"{source.name} has rows of its own form; remove the {setting} setting.")
    return True


def plain(given: Any, called: str) -> Iterable[Mapping[str, Any]]:
    """Return rows as given; those of a data set as plain Python values.

    Raises:
        DataError: The argument holds no rows.
    """
    from datasets import Dataset, IterableDataset

    if isinstance(given, Dataset | IterableDataset):
        # Without a format: set_format('torch') would hand out tensors in place of texts.
        rows: Iterable[Mapping[str, Any]] = _undecoded(
            given if isinstance(given, IterableDataset) else given.with_format(None)
        )
        return rows
    if isinstance(given, list | tuple):
        return given
    if isinstance(given, dict) and _is_splits(given):
        first = next(iter(given), "train")
        raise DataError(f"{called} was given a DatasetDict; give one of its splits, such as dataset[{first!r}].")
    frame = " (datasets.Dataset.from_pandas makes one)" if type(given).__name__ == "DataFrame" else ""
    raise DataError(
        f"{called} was given {_article(given)}; give a file's path, a datasets.Dataset or a list of dicts{frame}."
    )


def _undecoded(rows: Any) -> Any:
    """Return a data set whose images and sounds stay bytes: they are never used, and decoders may be missing."""
    for column, feature in (rows.features or {}).items():
        raw = _raw(feature)
        if raw != feature:
            rows = rows.cast_column(column, raw)
    return rows


def _raw(feature: Any) -> Any:
    from datasets import LargeList, List
    from datasets.features import Audio, Image, Nifti, Pdf, Video

    if isinstance(feature, Audio | Image | Nifti | Pdf | Video):
        return replace(feature, decode=False)
    if isinstance(feature, List | LargeList):
        return replace(feature, feature=_raw(feature.feature))
    if isinstance(feature, dict):
        return {name: _raw(inner) for name, inner in feature.items()}
    return feature


def choose_split(splits: Mapping[str, Dataset], split: str | None, name: str) -> tuple[str, Dataset]:
    """Return the split that is asked for, or the only one, with its name.

    Raises:
        DataError: There are several and none is asked for, or there is none of that name.
    """
    known = ", ".join(splits) or "none"
    if split is None and len(splits) == 1:
        return next(iter(splits.items()))
    if split is None:
        raise DataError(f"{name} has the splits {known}; choose one with split={next(iter(splits), 'train')!r}.")
    if split not in splits:
        raise DataError(f"{name} has no split {split!r}; it has {known}.")
    return split, splits[split]


def _rows(given: Any, split: str | None, called: str) -> Iterable[Mapping[str, Any]]:
    if _is_splits(given):
        return plain(choose_split(given, split, "The DatasetDict")[1], called)
    if split is not None:
        raise UsageError("split has no effect on rows; it is for a DatasetDict or the name of a data set.")
    return plain(given, called)


def _is_splits(given: Any) -> bool:
    from datasets import DatasetDict, IterableDatasetDict

    return isinstance(given, DatasetDict | IterableDatasetDict)


def _is_folder(path: str | Path) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # no path at all; the reader says so
        return False


def _refuse_choice(name: str, subset: str | None, split: str | None) -> None:
    if subset is not None or split is not None:
        setting = "subset" if subset is not None else "split"
        raise UsageError(f"{setting} has no effect on {name}; it is for a folder or the name of a hub data set.")


def _article(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
