"""Data sets of the Hugging Face hub, by name or from a folder, through the library `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Value,
    get_dataset_config_names,
    load_dataset_builder,
    load_from_disk,
)
from datasets.builder import DatasetBuilder
from datasets.exceptions import DatasetsError
from huggingface_hub import constants

from mithridate.data.csv_files import CsvCell
from mithridate.data.data_sources import DATA_FILES, DataSource, choose_split, plain
from mithridate.errors import DataError, UsageError

_PATIENCE = 10.0  # seconds until the hub counts as unreachable; the library itself tries for minutes
_MOST_FILES = 20_000  # in a folder that is one data set; a home folder has more
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, NotImplementedError, DatasetsError, httpx.HTTPError)
"""What the library raises for data sets that are absent, private, damaged or made by a script."""


def load_hub(name: str, subset: str | None, split: str | None) -> DataSource:
    """Return the rows of a hub data set; no code of the data set is run.

    Raises:
        DataError: It cannot be reached or read, or has several splits and none is chosen.
        UsageError: It has several subsets and none is chosen.
    """
    _require_hub(name)
    return _load(name, subset, split)


def load_folder(name: str, subset: str | None, split: str | None) -> DataSource:
    """Return the rows of a folder: one data file, what `save_to_disk` wrote, or a copy of a hub data set.

    Raises:
        DataError: There are no rows in it, or it has several splits and none is chosen.
        UsageError: It has several subsets and none is chosen.
    """
    folder = Path(name)
    # The marks of save_to_disk, whose folders load_dataset refuses.
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved(name, subset, split)
    files = _data_files(folder)
    if not files:
        raise DataError(f"{name}: found a folder without data files, expected a data file or a folder that holds one")
    # Read by us, with line numbers in faults; a README.md may declare splits, which only `datasets` reads.
    if len(files) == 1 and subset is None and split is None and not (folder / "README.md").is_file():
        return DataSource(files[0], str(files[0]))
    return _load(name, subset, split)


def _data_files(folder: Path) -> list[Path]:
    try:
        # Cut off before sorting: a home folder or a mount would be walked for minutes.
        entries = list(islice(folder.rglob("*"), _MOST_FILES + 1))
        found = [path for path in entries if path.name.lower().removesuffix(".gz").endswith(DATA_FILES)]
        # Hidden folders, such as .cache and .git, hold copies and metadata, not the data set's rows.
        shown = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
        files = sorted(path for path in shown if path.is_file())
    except OSError as error:
        what = f"found a folder that cannot be read ({error.strerror})"
        raise DataError(f"{folder}: {what}, expected a readable one") from None
    if len(entries) > _MOST_FILES:
        raise DataError(f"{folder}: found a folder of more than {_MOST_FILES} files, expected that of one data set")
    return files


def _saved(name: str, subset: str | None, split: str | None) -> DataSource:
    if subset is not None:
        raise UsageError(f"subset has no effect on {name}, which was written by save_to_disk.")
    try:
        found = load_from_disk(name)
    except _ERRORS as error:
        raise DataError(f"{name} cannot be read as a saved data set ({_short(error)}); save it again.") from error
    if isinstance(found, DatasetDict):
        return _source(name, *choose_split(found, split, name))
    if split is not None:
        raise UsageError(f"split has no effect on {name}, which holds a single data set.")
    return DataSource(plain(found, name), name)


def _load(name: str, subset: str | None, split: str | None) -> DataSource:
    try:
        builder = _builder(name, subset)
        builder.download_and_prepare()
        found = builder.as_dataset()
    except _ERRORS as error:
        raise DataError(_unloadable(name, error)) from error
    which, rows = choose_split(found, split, name)
    source = _source(f"{name}:{subset}" if subset else name, which, rows)
    # The same rule as for a local table: a cell "1" may be the label 1.
    return source._replace(rows=_Cells(rows)) if builder.name == "csv" else source


def _builder(name: str, subset: str | None) -> DatasetBuilder:
    try:
        builder = load_dataset_builder(name, subset)
    except ValueError as error:
        # The library raises ValueError for a missing subset as for much else; the list of subsets tells which.
        known = _subsets(name)
        if subset in known or (subset is None and len(known) == 1):
            raise
        choice = f"choose one with subset={known[0]!r}" if subset is None else f"there is none called {subset!r}"
        raise UsageError(f"{name} has the subsets {', '.join(known)}; {choice}.") from error
    if builder.name != "csv":
        return builder
    # pandas would take "NA" for nothing and "007" for 7, unless it is told that every column holds text.
    streams = builder.as_streaming_dataset()
    columns: dict[str, Any] = next(iter(next(iter(streams.values()))), {})
    texts = Features({column: Value("string") for column in columns})
    return load_dataset_builder(name, subset, features=texts, keep_default_na=False)


def _unloadable(name: str, error: Exception) -> str:
    if Path(name).is_dir():
        return f"The folder {name} cannot be read as one data set ({_cause(error)}); give the path of one of its files."
    return (
        f"{name!r} is no file or folder here, and cannot be loaded as a hub data set ({_cause(error)}); check the name,"
        " or download it and give the path of its JSONL, CSV or Parquet file."
    )


def _subsets(name: str) -> list[str]:
    known: list[str] = get_dataset_config_names(name)
    return known


def _source(name: str, split: str, rows: Dataset) -> DataSource:
    return DataSource(plain(rows, name), f"{name}:{split}")


class _Cells:
    """Rows of a data set that was made of CSV files, whose cells are all text: there `"1"` may stand for a number."""

    def __init__(self, rows: Dataset):
        self._rows = rows

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for row in self._rows:
            yield {key: CsvCell(value) if isinstance(value, str) else value for key, value in row.items()}


def _require_hub(name: str) -> None:
    """Ask once whether the hub can be reached, so that a machine without network is told so at once."""
    if constants.HF_HUB_OFFLINE:  # then the library looks in its cache alone
        return
    try:
        # Any answer will do, even an error status: only a hub that cannot be reached raises.
        httpx.head(constants.ENDPOINT, timeout=_PATIENCE)
    except httpx.HTTPError as error:
        raise DataError(
            f"{name!r} is no file or folder here, and the hub {constants.ENDPOINT} cannot be reached"
            f" ({_short(error) or type(error).__name__}); check the path or the network, or set HF_HUB_OFFLINE=1 to use"
            " a copy that was loaded before."
        ) from error


def _cause(error: BaseException) -> str:
    """Return what went wrong at the bottom; the library's own errors say little about files."""
    inner = isinstance(error, DatasetsError) and error.__cause__
    return _short(inner if inner else error)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
