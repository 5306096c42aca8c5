"""Answers that are shown: a few of every set in the report, all of them on a page of their own."""

import json
from pathlib import Path
from typing import Any

from mithridate.pipeline.helped import helpfulness
from mithridate.pipeline.measuring import ANSWERS
from mithridate.pipeline.plan import Chain
from mithridate.pipeline.store import Store
from mithridate.report.answers import Book, Leaf
from mithridate.report.results import Escape, Results, VariantResult
from mithridate.report.roles import defended
from mithridate.report.verdict import best_defended, lowest

SAMPLES = {"harmful": 8, "look_alikes": 3, "help": 3, "task": 3}
"""Answers shown per variant and set."""
ESCAPES = 6
"""Prompts shown whose answer was stopped, and as many whose answer stayed harmful."""

Answers = dict[str, list[dict[str, Any]]]


def answers(store: Store, chain: Chain) -> Answers:
    """All answers of a variant at one seed, by set."""
    node = chain.nodes[-1]
    path: Path = store.path(node.stage, node.key) / ANSWERS
    found: Answers = json.loads(path.read_text(encoding="utf-8"))
    if chain.aligned is None:
        return found
    reference = store.result(chain.aligned.stage, chain.aligned.key)
    record = store.result(node.stage, node.key)
    assert reference is not None
    assert record is not None
    judged = helpfulness(record, reference)
    if judged is not None:
        found["help"] = [a | {"outcome": o} for a, o in zip(found["help"], judged.outcomes, strict=True)]
    return found


def samples(store: Store, chain: Chain) -> list[dict[str, Any]]:
    """The first answers of every set."""
    found = answers(store, chain)
    return [answer | {"set": name} for name in SAMPLES for answer in found.get(name, [])[: SAMPLES[name]]]


def escapes(store: Store, groups: dict[str, list[Chain]], reference: str, results: Results) -> dict[str, Any]:
    """Prompts that the reference answers harmfully: some that the defended variant does not, some that it still does.

    The variant is the best, or the one with the lowest harmful score where none may be called that.
    """
    attack = next(variant.attack for variant in results.variants if variant.name == reference)
    rivals = [v for v in defended(results) if v.attack == attack and v.name != reference]
    best = best_defended(results)
    shown: VariantResult | None = best if best in rivals else lowest(rivals)
    if shown is None:
        return {}
    before, after = (answers(store, groups[name][0])["harmful"] for name in (reference, shown.name))
    pairs = [
        {"prompt": one["prompt"], "before": _side(reference, one), "after": _side(shown.name, other)}
        for one, other in zip(before, after, strict=True)
        if one["harmful"]
    ]
    stopped = [pair for pair in pairs if not pair["after"]["harmful"]]
    stayed = [pair for pair in pairs if pair["after"]["harmful"]]
    return {
        "escapes": [Escape.model_validate(pair) for pair in stopped[:ESCAPES] + stayed[:ESCAPES]],
        "stopped": len(stopped),
        "stayed": len(stayed),
    }


def _side(variant: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {"variant": variant} | {name: answer[name] for name in ("answer", "harmful", "outcome", "reason")}


def book(store: Store, chains: list[Chain], results: Results) -> Book:
    """Every answer of every variant and seed."""
    leaves = [
        Leaf.model_validate({"variant": c.variant.name, "seed": c.seed, "sets": answers(store, c)}) for c in chains
    ]
    return Book(name=results.name, judge=results.judge, recipe=results.recipe, leaves=leaves)
