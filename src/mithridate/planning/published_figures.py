"""Figures that papers report for the methods of a variant."""

import json
from functools import cache
from importlib.resources import files

from mithridate.experiment.recipe import Variant
from mithridate.planning.plan_records import PublishedFigure

_FILE = "published.json"


def published(variant: Variant) -> list[PublishedFigure]:
    """Return what papers report for a variant's methods, in the order of its stages; nothing for plug-ins."""
    stages = [variant.alignment, variant.finetuning, *variant.posttuning]
    names = dict.fromkeys(choice.method for choice in stages)
    return [figure for name in names for figure in _known().get(name, [])]


@cache
def _known() -> dict[str, list[PublishedFigure]]:
    found: dict[str, list[PublishedFigure]] = {}
    # Made of the repository's cards by `python -m tools.published_figures`, since these are not installed.
    for entry in json.loads(files("mithridate.planning").joinpath(_FILE).read_text(encoding="utf-8")):
        figure = PublishedFigure.model_validate(entry)
        found.setdefault(figure.method, []).append(figure)
    return found
