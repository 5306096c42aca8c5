"""``strength="auto"``: the largest dose that the user's own data and the provider's safe rows can bear."""

from collections.abc import Callable, Iterable
from typing import Any

from mithridate.errors import DefenseError
from mithridate.repair.budgets import Budgets
from mithridate.repair.repaired import DoseCurve, DosePoint

AUTO_NEEDS_USER = "strength='auto' needs user=, held-out rows of the user's own data"
REFINEMENTS = 4
"""Bisections between the last dose within the budgets and the first one beyond: to a sixteenth of that interval."""
HALVINGS = 6
"""Times the smallest dose is halved if it is already beyond one."""


def largest_dose(
    *, parameter: str, doses: Iterable[float], dosed: Callable[[float], Any], budgets: Budgets
) -> DoseCurve:
    """Try rising doses until a budget is exceeded, then bisect; if the first dose exceeds it, halve that one first.

    Args:
        parameter: Name of the setting.
        doses: Doses in rising order.
        dosed: Context manager under which the model has a dose.
        budgets: How far losses may rise.

    Raises:
        DefenseError: If even the smallest dose is beyond a budget.
    """
    points: list[DosePoint] = []

    def within(dose: float) -> bool:
        with dosed(dose):
            points.append(budgets.measure(dose))
        return budgets.allow(points[-1])

    # low: the largest dose known to be within the budgets; high: the smallest known to be beyond one.
    low, high = None, None
    for dose in doses:
        if not within(dose):
            high = dose
            break
        low = dose
    if low is None and high is not None:
        low, high = _halved(high, within)
    if low is None:
        raise DefenseError(budgets.exceeded(parameter, points[-1]))
    # Without a dose beyond a budget there is no interval to bisect.
    for _ in range(REFINEMENTS if high is not None else 0):
        middle = (low + high) / 2  # type: ignore[operator]
        low, high = (middle, high) if within(middle) else (low, middle)
    points.sort(key=lambda point: point.dose)
    return budgets.curve(parameter, low, points)


def _halved(high: float, within: Callable[[float], bool]) -> tuple[float | None, float]:
    """Halve a dose until it is within the budgets (None if it never is); return it and the last one beyond."""
    for _ in range(HALVINGS):
        if within(high / 2):
            return high / 2, high
        high /= 2
    return None, high
