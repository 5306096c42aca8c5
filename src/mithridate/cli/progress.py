"""Progress bars of a run: one for all stages, one for each stage under way."""

from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mithridate.pipeline.plan import Node


class Bars:
    """Draws what the scheduler tells; plain lines where the output is no terminal.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._tasks_by_key: dict[str, TaskID] = {}
        self._all: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def planned(self, total: int) -> None:
        """The run has so many stages."""
        self._all = self._progress.add_task("stages", total=total)

    def started(self, node: Node) -> None:
        """A stage begins."""
        self._tasks_by_key[node.key] = self._progress.add_task(label(node), total=None)
        if not self._progress.console.is_terminal:
            self._progress.console.print(label(node))

    def progressed(self, key: str, done: int, total: int) -> None:
        """A stage is so far."""
        if key in self._tasks_by_key:
            self._progress.update(self._tasks_by_key[key], completed=done, total=total)

    def finished(self, node: Node) -> None:
        """A stage is done, or was found in the store."""
        if node.key in self._tasks_by_key:
            self._progress.remove_task(self._tasks_by_key.pop(node.key))
        if self._all is not None:
            self._progress.advance(self._all)


def label(node: Node) -> str:
    """What a stage is called on the screen."""
    defense: dict[str, Any] = node.spec.get("defense", {})
    parts = [node.stage, defense.get("method", ""), f"seed {node.spec['seed']}" if "seed" in node.spec else ""]
    return " · ".join(part for part in parts if part)
