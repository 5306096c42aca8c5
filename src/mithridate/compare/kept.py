"""What pipelines lost that harmful score and accuracy do not show: answers to harmless prompts."""

from collections.abc import Sequence

from mithridate.compare.results import Measure, Pipeline, Point
from mithridate.compare.roles import Role, of_role
from mithridate.report.prices import TOLERANCE


def losses(pipelines: Sequence[Pipeline], at_base: Sequence[Point]) -> dict[str, list[str]]:
    """Pipelines that refuse more look-alikes, or help less, than the undefended one by more than the tolerance.

    Args:
        pipelines: All pipelines.
        at_base: Their figures at the recipe's setting.

    Returns:
        What each of them lost in words, in points; nothing of the pipelines that lost nothing, and nothing at all
        without an undefended pipeline or where it was not measured.
    """
    places = {point.pipeline: point for point in at_base}
    bare = next((places[p.name] for p in of_role(list(pipelines), Role.UNDEFENDED) if p.name in places), None)
    if bare is None:
        return {}
    found = {name: _lost(bare, point) for name, point in places.items()}
    return {name: lost for name, lost in found.items() if lost}


def _lost(bare: Point, point: Point) -> list[str]:
    refused = _above(point.over_refusal, bare.over_refusal)
    unhelped = _above(bare.helpfulness, point.helpfulness)
    return [
        *([f"its over-refusal is {100 * refused:.1f} points above the undefended"] if refused > TOLERANCE else []),
        *([f"its helpfulness is {100 * unhelped:.1f} points below the undefended"] if unhelped > TOLERANCE else []),
    ]


def _above(one: Measure | None, other: Measure | None) -> float:
    return 0.0 if one is None or other is None else one.seed_mean - other.seed_mean
