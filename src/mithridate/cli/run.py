"""``mithridate run``."""

import shlex
import sys
from pathlib import Path

from rich.console import Console

from mithridate.cli.progress import Bars
from mithridate.pipeline.run import run
from mithridate.report import as_rich_table


def command(recipe: Path, overrides: list[str], out: Path | None, jobs: int) -> None:
    """Run a recipe with progress bars, then print the table and where the report lies."""
    console = Console()
    typed = shlex.join(["mithridate", *sys.argv[1:]])
    with Bars(console) as bars:
        results = run(recipe, out, overrides=overrides, jobs=jobs, command=typed, monitor=bars)
    console.print(as_rich_table(results))
    folder = out if out is not None else Path("runs") / results.name
    console.print(f"report: {folder / 'report.html'}\nresults: {folder / 'results.json'}")
