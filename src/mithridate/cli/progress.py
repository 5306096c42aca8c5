"""Shows the progress of a run: bars on a terminal, one line per event elsewhere."""

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mithridate.experiment.forecast import Forecast
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.report.text import seconds


class RunDisplay(Monitor):
    """Draws a bar for all stages and one for each that is running, with the time left.

    If the output is not a terminal, every start and end of a stage is a line with the time since the run began,
    variant, stage and, at its end, how long it took.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        # No markup: rich would read brackets in a variant's name or a message as styles. Transient, so that the bars
        # make room for the table of results.
        columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn())
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._console, self._start = console, time.monotonic()
        self._tasks: dict[str, TaskID] = {}
        self._all: TaskID | None = None
        self._forecast = Forecast([], 1)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress.live.is_started:
            self._progress.refresh()  # bars are drawn ten times a second, and the last stage may just have ended
        self._progress.stop()

    def planned(self, nodes: Sequence[StageNode], jobs: int) -> None:
        """Set up the bars for all stages of the run."""
        self._forecast = Forecast(nodes, jobs)
        self._all = self._progress.add_task("stages", total=len(nodes))
        self._say(f"{len(nodes)} stages planned")

    def started(self, node: StageNode) -> None:
        """Add the bar of a stage."""
        self._forecast.started(node)
        # How many steps it has is only known when it reports the first.
        self._tasks[node.key] = self._progress.add_task(node.label, total=None)
        self._say(f"{node.label} · started")

    def progressed(self, node: StageNode, done: int, total: int) -> None:
        """Move the bar of a stage on."""
        if node.key in self._tasks:
            self._progress.update(self._tasks[node.key], completed=done, total=total)
        self._count()

    def finished(self, node: StageNode) -> None:
        """Count a stage that is done, or was found in the store."""
        taken = self._forecast.finished(node)
        self._end(node)
        # A second call of a run finds hundreds of stages in the store; a line for each would bury the new ones.
        if taken is not None:
            self._say(f"{node.label} · done in {seconds(taken)} · {self._forecast.progress().counted()}")

    def failed(self, node: StageNode, reason: str) -> None:
        """Count a stage that cannot be done, and print why."""
        self._forecast.failed(node)
        self._end(node)
        # On a terminal too: it is no progress, and the bars are gone at the end.
        self._console.print(f"{self._time()} {node.label} · cannot act: {reason}", markup=False, soft_wrap=True)

    def lost(self, node: StageNode, reason: str) -> None:
        """Take the bar of a stage away until it starts again, and print why."""
        if node.key in self._tasks:
            self._progress.remove_task(self._tasks.pop(node.key))
        line = f"{self._time()} {node.label} · its worker was lost and it is begun again: {reason}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def told(self, sentence: str) -> None:
        """Print what a user must know, on a terminal too."""
        self._console.print(f"{self._time()} {sentence}", markup=False, highlight=False, soft_wrap=True)

    def _end(self, node: StageNode) -> None:
        if node.key in self._tasks:
            self._progress.remove_task(self._tasks.pop(node.key))
        if self._all is not None:
            self._progress.advance(self._all)
        self._count()

    def _count(self) -> None:
        if self._all is not None:
            self._progress.update(self._all, description=self._forecast.progress().counted())

    def _say(self, line: str) -> None:
        # Soft wrap, since rich breaks lines at 80 columns where there is no terminal, and logs are searched by line.
        if not self._console.is_terminal:
            self._console.print(f"{self._time()} {line}", markup=False, highlight=False, soft_wrap=True)

    def _time(self) -> str:
        """Return the time since the run began."""
        minutes, rest = divmod(int(time.monotonic() - self._start), 60)
        return f"[{minutes:02d}:{rest:02d}]"
