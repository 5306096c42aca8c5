"""Draws the losses of a job's trainings: points of a small picture, and the same figures as a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 12, 30
SERIES = (("train", "Training loss", "train_loss"), ("valid", "Validation loss", "valid_loss"))
"""Class, name and figure of each line."""


class LossLine(NamedTuple):
    """One line of a picture.

    Attributes:
        kind: Its class in the page's style.
        name: What it shows.
        points: Where it runs, in the picture's units.
    """

    kind: str
    name: str
    points: list[tuple[float, float]]

    @property
    def path(self) -> str:
        """The points as SVG has them."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.points)


class Tick(NamedTuple):
    """A labeled place on an axis, in the picture's units."""

    at: float
    label: str


class StepCurve(NamedTuple):
    """The losses of one training.

    Attributes:
        training: Which of the job's trainings it is, from 1.
        lines: What is drawn; nothing where no loss is known.
        across: Steps along the lower edge.
        up: Losses along the left edge.
        rows: All figures by step.
    """

    training: int
    lines: list[LossLine]
    across: list[Tick]
    up: list[Tick]
    rows: list[Mapping[str, Any]]


def loss_curves(events: Iterable[Mapping[str, Any]]) -> list[StepCurve]:
    """Return a picture for each training of a job.

    Args:
        events: What the job's events with figures hold, in their order; whatever is about no step is left out.
    """
    found: dict[int, list[Mapping[str, Any]]] = {}
    for data in events:
        if "step" in data:
            found.setdefault(data.get("training", 1), []).append(data)
    return [_curve(number, sorted(rows, key=lambda row: int(row["step"]))) for number, rows in sorted(found.items())]


def _curve(number: int, rows: Sequence[Mapping[str, Any]]) -> StepCurve:
    steps = max(max(int(row.get("total_steps", 0)), int(row["step"])) for row in rows)
    losses = [float(row[figure]) for _, _, figure in SERIES for row in rows if figure in row]
    # From zero, so that a curve that hardly falls looks like one.
    highest = max([loss for loss in losses if loss > 0], default=1.0)
    lines = []
    for kind, name, figure in SERIES:
        points = [(_across(int(row["step"]), steps), _up(float(row[figure]), highest)) for row in rows if figure in row]
        if points:
            lines.append(LossLine(kind, name, points))
    across = [Tick(_across(step, steps), str(step)) for step in sorted({1, (1 + steps) // 2, steps})]
    up = [Tick(_up(loss, highest), f"{loss:.3g}") for loss in (0.0, highest / 2, highest)]
    return StepCurve(number, lines, across, up, list(rows))


def _across(step: int, steps: int) -> float:
    return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * (step - 1) / max(1, steps - 1), 1)


def _up(loss: float, highest: float) -> float:
    share = min(1.0, max(0.0, loss / highest))
    return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share, 1)
