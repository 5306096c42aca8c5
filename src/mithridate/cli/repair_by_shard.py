"""``mithridate repair --by-shard``: repairs a checkpoint that may be larger than memory."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from mithridate.errors import UsageError
from mithridate.experiment.checkpoint_repair import repair_checkpoint
from mithridate.models.loading import Where
from mithridate.repair.post_tuning import Repair
from mithridate.repair.shard_output import Progress as Count

GB = 1e9


def command(
    name: str,
    out: Path,
    defense: Repair,
    rows: dict[str, Any],
    streams: dict[str, str | None],
    references: dict[str, Any],
    template: str | None,
    dtype: str,
    as_json: bool,
) -> None:
    """Repair a checkpoint file by file, and print what was changed."""
    if dtype != "auto":
        raise UsageError("--by-shard keeps the type of every weight; leave --dtype out")
    with _bar() as count:
        done = repair_checkpoint(
            defense,
            name,
            out,
            **rows,
            **references,
            template=template,
            progress=count,
            record={"streams": streams},
        )
    if as_json:
        print(json.dumps({"out": str(out)} | done.manifest, indent=1))
        return
    repaired, method = done.repaired, defense.info.name
    print(f"{out}: {method} changed {repaired.changed} weights by {repaired.distance:.4g} (L2 norm)")


def refuse_larger_than_memory(defense: Repair, places: list[Where]) -> None:
    """Refuse to load models that do not fit into memory, where the repair can do without.

    Raises:
        UsageError: If they do not.
    """
    size, free = sum(map(_size, places)), psutil.virtual_memory().available
    searched = defense.dose is not None and getattr(defense, defense.dose) == "auto"
    if size > free and defense.by_shard and not searched:
        raise UsageError(
            f"the models have {size / GB:.1f} GB of weights and {free / GB:.1f} GB of memory are free; add --by-shard, "
            "which reads one weight at a time"
        )


def _size(where: Where) -> int:
    """Return the bytes of a model's weights; 0 for one that is not on this disk yet."""
    folders = [Path(name) for name in (where.base, where.adapter) if name is not None]
    kinds = ("*.safetensors", "*.bin")
    found = [list(folder.glob(kind)) for folder in folders if folder.is_dir() for kind in kinds]
    return sum(path.stat().st_size for paths in found for path in paths)


@contextmanager
def _bar() -> Iterator[Count]:
    """Draw a bar on a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(24), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("weights", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
