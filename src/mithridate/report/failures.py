"""Where a defense could not act, in words and by variant."""

from mithridate.report.axis_results import AXES, plain_value
from mithridate.report.results import Failure, Results
from mithridate.report.text import clean

STAGE_WORDS = {"alignment": "alignment", "finetuning": "fine-tuning", "posttuning": "post-tuning"}


def unmeasured(results: Results) -> dict[str, list[Failure]]:
    """Return the failures at the recipe's setting of the variants without any figure, by variant."""
    measured = {variant.name for variant in results.variants}
    found: dict[str, list[Failure]] = {}
    for failure in results.failures:
        if failure.at_base and failure.variant not in measured:
            found.setdefault(failure.variant, []).append(failure)
    return found


def failure_sentences(results: Results) -> list[str]:
    """Return one sentence for each variant and reason: what could not act, where, and why."""
    # One defense fails at many seeds and settings for one reason; a sentence each would bury the other cautions.
    groups: dict[tuple[str, str, str, str], list[Failure]] = {}
    for failure in results.failures:
        groups.setdefault((failure.variant, failure.stage, failure.method, failure.reason), []).append(failure)
    return [
        clean(
            f"{variant}: {method} cannot act at {STAGE_WORDS.get(stage, stage)} ({_places(results, group)}): {reason}"
        )
        for (variant, stage, method, reason), group in groups.items()
    ]


def _places(results: Results, failures: list[Failure]) -> str:
    """Settings and seeds, in the order in which they were met."""
    seeds: dict[str, list[int]] = {}
    for failure in failures:
        seeds.setdefault(_setting(results, failure), []).append(failure.seed)
    return "; ".join(f"{where}, {_counted(numbers)}" for where, numbers in seeds.items())


def _setting(results: Results, failure: Failure) -> str:
    if failure.at_base or results.base is None:
        return "at the recipe's setting"
    # Only what differs from the recipe's setting: six numbers would hide the one that matters.
    moved = [axis for axis in AXES if getattr(failure.setting, axis) != getattr(results.base, axis)]
    values = {axis.replace("_", " "): plain_value(getattr(failure.setting, axis)) for axis in moved}
    return "at " + ", ".join(f"{axis} {value}" for axis, value in values.items())


def _counted(seeds: list[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
