"""Names beside points without covering each other."""

import math
from dataclasses import dataclass
from typing import Any

from mithridate.report.figures.canvas import PALETTE

FONT = 10.0
# Average width of a character in units of the font size; the reader's own font is not known here.
CHARACTER = 0.58
DISTANCES = (9.0, 16.0, 26.0, 40.0, 56.0)
ANGLES = (0, 180, 45, -45, 135, -135, 90, -90)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """A named point with error bars, in data coordinates; a box is (left, bottom, right, top)."""

    name: str
    center: tuple[float, float]
    arms: Box


def place_labels(figure: Any, axes: Any, marks: list[Mark]) -> None:
    """Write each name near its point, where it overlaps other names, points and error bars least.

    Args:
        figure: The figure, whose layout is settled before places are chosen.
        axes: Axes with their final limits and axis labels.
        marks: The points.
    """
    # Constrained layout moves the axes only when drawn; pixels asked for earlier would be the wrong ones.
    figure.draw_without_rendering()
    frame = tuple(axes.get_window_extent().extents)
    taken = [box for mark in marks for box in _covered(axes, mark)]
    for mark in marks:
        x, y = axes.transData.transform(mark.center)
        places = {
            (distance, angle): _box(x, y, distance, angle, mark.name) for distance in DISTANCES for angle in ANGLES
        }
        costs = {place: _cost(box, taken, frame) + place[0] for place, box in places.items()}
        distance, angle = min(costs, key=costs.__getitem__)
        taken.append(places[distance, angle])
        offset = _offset(distance, angle)
        far = {"arrowstyle": "-", "color": PALETTE["muted"], "linewidth": 0.6} if distance > 20 else None
        axes.annotate(
            mark.name,
            mark.center,
            xytext=offset,
            textcoords="offset points",
            ha=_align(offset[0]),
            va="center",
            fontsize=FONT,
            arrowprops=far,
        )


def _covered(axes: Any, mark: Mark) -> list[Box]:
    """Return the boxes in pixels that a point and its two error bars cover."""
    x, y = axes.transData.transform(mark.center)
    left, bottom = axes.transData.transform(mark.arms[:2])
    right, top = axes.transData.transform(mark.arms[2:])
    return [(x - 5, y - 5, x + 5, y + 5), (left, y - 2, right, y + 2), (x - 2, bottom, x + 2, top)]


def _offset(distance: float, angle: float) -> tuple[float, float]:
    return distance * math.cos(math.radians(angle)), distance * math.sin(math.radians(angle))


def _align(shift: float) -> str:
    return "center" if abs(shift) < 1 else "left" if shift > 0 else "right"


def _box(x: float, y: float, distance: float, angle: float, name: str) -> Box:
    """Return the label's box in pixels (left, bottom, right, top)."""
    shift_x, shift_y = _offset(distance, angle)
    width = CHARACTER * FONT * len(name)
    left = {"left": x + shift_x, "right": x + shift_x - width, "center": x - width / 2}[_align(shift_x)]
    return left, y + shift_y - 0.6 * FONT, left + width, y + shift_y + 0.6 * FONT


def _cost(box: Box, taken: list[Box], frame: tuple[float, ...]) -> float:
    """Return the area covered twice, plus a high price for every pixel outside the frame."""
    left, bottom, right, top = box
    sideways = max(0, frame[0] - left) + max(0, right - frame[2])
    outside = sideways + max(0, frame[1] - bottom) + max(0, top - frame[3])
    # A name that leaves the frame is cut off by the SVG's edge, which no overlap outweighs.
    return 50 * outside + sum(_overlap(box, other) for other in taken)


def _overlap(one: Box, two: Box) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    return max(0.0, width) * max(0.0, height)
