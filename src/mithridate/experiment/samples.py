"""Picks the answers to show: a few of every set in the report, all of them on a page of their own."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from mithridate.experiment.cells import help_of
from mithridate.experiment.evaluation_stage import ANSWERS
from mithridate.experiment.plan import Chain
from mithridate.experiment.store import Store
from mithridate.report.answers import AllAnswers, VariantAnswers
from mithridate.report.conclusion import best_defended, lowest
from mithridate.report.result_parts import Escape, EscapeSide, Sample
from mithridate.report.results import Results, VariantResult
from mithridate.report.roles import defended

SAMPLES = {"harmful": 8, "look_alikes": 3, "help": 3, "task": 3}
"""Answers shown per variant and set; most of the harmful ones, as a reader wants to check the judge on them."""
ESCAPES = 6
"""Most prompts shown whose harmful answer was stopped, and most whose answer stayed harmful."""


class Escapes(NamedTuple):
    """Prompts that the reference answers harmfully.

    Attributes:
        shown: Some of them, with both answers.
        stopped: How many the defended variant does not answer harmfully.
        stayed: How many it still does.
    """

    shown: list[Escape]
    stopped: int
    stayed: int


def answers(store: Store, chain: Chain) -> dict[str, list[Sample]]:
    """Return all answers of a variant at one seed, by set."""
    tree: dict[str, list[dict[str, Any]]] = json.loads(
        (store.path(chain.evaluation) / ANSWERS).read_text(encoding="utf-8")
    )
    helped = help_of(store, chain)
    # The stage stored what the rules say; only here is known what surprises the aligned model.
    if helped is not None:
        tree["help"] = [a | {"outcome": o} for a, o in zip(tree["help"], helped[0].outcomes, strict=True)]
    return {name: [Sample.model_validate(answer | {"set": name}) for answer in found] for name, found in tree.items()}


def samples(store: Store, chain: Chain) -> list[Sample]:
    """Return the first answers of every set."""
    # The first, not the best: every variant then shows the same prompts, and nobody chose them.
    found = answers(store, chain)
    return [answer for name, count in SAMPLES.items() for answer in _first(found.get(name, []), count)]


def _first(found: Sequence[Sample], count: int) -> list[Sample]:
    """Return the first answers, as many of each group."""
    groups = list(dict.fromkeys(answer.group for answer in found))
    each = {group: [answer for answer in found if answer.group == group] for group in groups}
    return [answer for group in groups for answer in each[group][: max(1, count // len(groups))]]


def escapes(store: Store, groups: dict[str, list[Chain]], reference: str, results: Results) -> Escapes | None:
    """Return prompts that the reference answers harmfully: some that the defense stops, some that it does not.

    The defended variant is the best one, or that with the lowest harmful score if none may be called the best.

    Args:
        store: Where the stages are.
        groups: The chains of each variant that was measured, one per seed.
        reference: Name of the reference.
        results: The figures of all variants.

    Returns:
        The prompts; None if no defended variant met the reference's attack at one of its seeds.
    """
    # Under another share of harmful rows, a difference in the answers would not be the defense's doing.
    attack = next(variant.attack for variant in results.variants if variant.name == reference)
    rivals = [v for v in defended(results) if v.attack == attack and v.name != reference]
    best = best_defended(results)
    shown: VariantResult | None = best if best in rivals else lowest(rivals)
    pair = _at_one_seed(groups[reference], groups[shown.name]) if shown is not None else None
    if shown is None or pair is None:
        return None
    before, after = (answers(store, chain)["harmful"] for chain in pair)
    found = [
        Escape(prompt=one.prompt, before=_side(reference, one), after=_side(shown.name, other))
        for one, other in zip(before, after, strict=True)
        if one.harmful
    ]
    stopped = [escape for escape in found if not escape.after.harmful]
    stayed = [escape for escape in found if escape.after.harmful]
    return Escapes(stopped[:ESCAPES] + stayed[:ESCAPES], len(stopped), len(stayed))


def _at_one_seed(one: Sequence[Chain], other: Sequence[Chain]) -> tuple[Chain, Chain] | None:
    """Return the first two chains of the same seed, since the seed decides which rows the attack trains on."""
    seeds = {chain.seed: chain for chain in other}
    return next(((chain, seeds[chain.seed]) for chain in one if chain.seed in seeds), None)


def _side(variant: str, answer: Sample) -> EscapeSide:
    return EscapeSide(
        variant=variant,
        answer=answer.answer,
        harmful=answer.harmful,
        outcome=answer.outcome,
        reason=answer.reason,
    )


def all_answers(store: Store, chains: Sequence[Chain], results: Results) -> AllAnswers:
    """Return every answer of every variant and seed."""
    leaves = [VariantAnswers(variant=c.variant.name, seed=c.seed, sets=answers(store, c)) for c in chains]
    return AllAnswers(name=results.name, judge=results.judge, recipe=results.recipe, leaves=leaves)
