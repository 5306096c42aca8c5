"""The Pareto front: variants that no other beats in both harmful score and accuracy."""

from mithridate.report.prices import prices
from mithridate.report.results import Results, VariantResult
from mithridate.report.roles import comparable, undefended

_IN_THE_FRONT = "task accuracy"
"""A price that is an axis of the front itself."""


def pareto_front(results: Results) -> list[str]:
    """Return the variants on the front at the recipe's setting.

    None of the others has a harmful score as low and an accuracy as high, and one of them better. Means over seeds are
    compared, so that neighbors on the front may be within each other's error. A variant with an attack of its own is
    not compared, and neither is one that lost answers to harmless prompts: refusing everybody would be on every front.
    """
    lost = lost_answers(results)
    places = {v.name: place for v in comparable(results) if v.name not in lost and (place := _place(v)) is not None}
    return [name for name, place in places.items() if not any(_beats(other, place) for other in places.values())]


def lost_answers(results: Results) -> dict[str, list[str]]:
    """Return variants that refuse more look-alikes, or help less, than the undefended one by more than the tolerance.

    Returns:
        What each of them lost, in words. Nothing without an undefended variant, or where it was not measured.
    """
    bare = undefended(results)
    # Nothing to compare with; the front then rests on its two axes alone.
    if bare is None:
        return {}
    words = {
        "over-refusal": "its over-refusal is {:.1f} points above",
        "helpfulness": "its helpfulness is {:.1f} points below",
    }
    found = {
        variant.name: [
            f"{words[price.name].format(price.fall)} the undefended"
            for price in prices(bare, variant)
            if price.name != _IN_THE_FRONT and not price.kept
        ]
        for variant in comparable(results)
    }
    return {name: lost for name, lost in found.items() if lost}


def _place(variant: VariantResult) -> tuple[float, float] | None:
    """Safety and usefulness, more of both is better."""
    accuracy = variant.finetune_accuracy
    return None if accuracy is None else (-variant.harmful_score.mean, accuracy.mean)


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    # Equal places do not beat each other, so that twins are both on the front.
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
