"""``mithridate compare``."""

import shlex
import sys
import time
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mithridate.compare import compare
from mithridate.compare.forecast import State
from mithridate.compare.results import Comparison
from mithridate.compare.tables import Table as Cells
from mithridate.compare.tables import base_table
from mithridate.report.text import memory

QUIET = 20.0
"""Seconds between two lines where the output is no terminal."""


class Line:
    """One line: a bar, stages done, the estimate of the time left, and what runs; plain lines without a terminal.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        columns = (SpinnerColumn(), BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("", total=None)
        self._console, self._told = console, 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, state: State) -> None:
        """Draw a state."""
        self._progress.update(self._task, completed=state.done, total=state.total, description=state.line())
        if not self._console.is_terminal and time.monotonic() - self._told > QUIET:
            self._told = time.monotonic()
            self._console.print(state.line(), markup=False)


def command(spec: Path, overrides: list[str], out: Path | None, jobs: int) -> None:
    """Run a comparison with a progress line, then print the table, the verdicts and where the page lies."""
    console = Console()
    typed = shlex.join(["mithridate", *sys.argv[1:]])
    with Line(console) as line:
        comparison = compare(spec, out, overrides=overrides, jobs=jobs, command=typed, show=line.show)
    folder = out if out is not None else Path("runs") / comparison.name
    console.print(_terminal(base_table(comparison)))
    _print_claims(console, comparison)
    console.print(f"store: {memory(comparison.run.store_bytes)} in {folder / 'store'}", soft_wrap=True)
    console.print(f"page: {folder / 'comparison.html'}\nresults: {folder / 'comparison.json'}", soft_wrap=True)


def _print_claims(console: Console, comparison: Comparison) -> None:
    for claim in comparison.claims:
        console.print(f"{claim.name}: {claim.verdict}. {claim.sentence}", markup=False, highlight=False)


def _terminal(cells: Cells) -> Table:
    table = Table(title=Text(f"{cells.title} (%)"), header_style="bold", title_justify="left")
    for column in cells.columns:
        table.add_column(column.title, justify="right" if column.numeric else "left", no_wrap=column.numeric)
    for row in cells.rows:
        table.add_row(*(Text(f"{cell.main}\n{cell.note}".strip()) for cell in row))
    return table
