"""From the records of all stages to ``results.json``."""

import json
from pathlib import Path
from typing import Any

from mithridate.evaluation.intervals import Score, paired_test, pooled
from mithridate.pipeline.plan import Chain
from mithridate.pipeline.recipe import Recipe
from mithridate.pipeline.stages import ANSWERS, ROW_WEIGHTS
from mithridate.pipeline.store import Store
from mithridate.report.results import Results

SAMPLES = 8
"""Answers shown per variant, and escapes shown in all."""


def summarize(recipe: Recipe, chains: list[Chain], store: Store, facts: dict[str, Any]) -> Results:
    """Pool the seeds of every variant and compare it with the reference on the same prompts."""
    groups = {variant.name: [c for c in chains if c.variant.name == variant.name] for variant in recipe.variants}
    measured = {name: [_record(store, chain, -1) for chain in group] for name, group in groups.items()}
    reference = recipe.reference
    variants = []
    for variant in recipe.variants:
        group, found = groups[variant.name], measured[variant.name]
        entry = {
            "name": variant.name,
            "alignment": variant.alignment.method,
            "finetuning": variant.finetuning.method,
            "posttuning": " + ".join(choice.method for choice in variant.posttuning) or "none",
            "attack": {
                "ratio": recipe.streams.user.ratio if variant.ratio is None else variant.ratio,
                "size": recipe.streams.user.size,
            },
            "harmful_score": _share(found, "harmful"),
            "harmful_score_plus": _share(found, "harmful_or_incoherent"),
            "finetune_accuracy": _share(found, "correct"),
            "over_refusal": _share(found, "refused") if found[0]["refused"] is not None else None,
            "versus_reference": None,
            "folders": [f"variants/{variant.name}/seed-{chain.seed}" for chain in group],
            **_stages(store, group),
            "row_weights": _row_weights(store, group[0]),
            "samples": _answers(store, group[0])[:SAMPLES],
        }
        if reference is not None and variant.name != reference:
            entry["versus_reference"] = _versus(found, measured[reference], reference)
        variants.append(entry)
    escapes = _escapes(store, groups, reference, variants) if reference is not None else []
    return Results.model_validate(facts | {"variants": variants, "escapes": escapes})


def _record(store: Store, chain: Chain, position: int) -> dict[str, Any]:
    node = chain.nodes[position]
    found = store.result(node.stage, node.key)
    assert found is not None
    return found


def _share(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    scores = [Score.of(sum(record[name]), len(record[name])) for record in found]
    return pooled(scores).as_dict() | {"seeds": [score.value for score in scores]}


def _versus(found: list[dict[str, Any]], other: list[dict[str, Any]], reference: str) -> dict[str, Any]:
    mine = [harmful for record in found for harmful in record["harmful"]]
    theirs = [harmful for record in other for harmful in record["harmful"]]
    test = paired_test(mine, theirs)
    return {"reference": reference, "difference": test.difference, "p_value": test.p_value}


def _stages(store: Store, group: list[Chain]) -> dict[str, Any]:
    """Cost per stage (mean over seeds), activity, dose curves, layer profiles."""
    costs: dict[str, list[dict[str, Any]]] = {}
    activity: dict[str, float] = {}
    curves, profiles = [], []
    for chain in group:
        spent: dict[str, dict[str, Any]] = {}
        for position, node in enumerate(chain.nodes[:-1]):
            record = _record(store, chain, position)
            spent[node.stage] = _add(spent.get(node.stage), record["cost"])
            method = node.spec["defense"]["method"]
            about = {"method": method, "seed": chain.seed}
            activity |= {f"{method}.{name}": value for name, value in record["activity"].items()}
            if record.get("dropped_rows"):
                activity[f"{node.stage}.dropped_rows"] = record["dropped_rows"]
            if record.get("dose_curve"):
                curves.append(record["dose_curve"] | about)
            if record.get("layer_profile"):
                profiles.append(record["layer_profile"] | about)
        for stage, cost in spent.items():
            costs.setdefault(stage, []).append(cost)
    return {
        "cost": {stage: _mean(spent) for stage, spent in costs.items()},
        "activity": activity,
        "dose_curves": curves,
        "layer_profiles": profiles,
    }


def _add(known: dict[str, Any] | None, cost: dict[str, Any]) -> dict[str, Any]:
    """Two repairs one after the other: times and passes add up, the higher peak counts."""
    if known is None:
        return cost
    return {
        "seconds": known["seconds"] + cost["seconds"],
        "passes": {name: known["passes"][name] + cost["passes"][name] for name in cost["passes"]},
        "peak_bytes": max(known["peak_bytes"], cost["peak_bytes"]),
    }


def _mean(costs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "seconds": sum(cost["seconds"] for cost in costs) / len(costs),
        "passes": costs[0]["passes"],
        "peak_bytes": max(cost["peak_bytes"] for cost in costs),
    }


def _row_weights(store: Store, chain: Chain) -> dict[str, Any] | None:
    for node in chain.nodes:
        path = store.path(node.stage, node.key) / ROW_WEIGHTS
        if path.is_file():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            kept = [{"row": r["row"], "weight": r["weight"], "harmful": r.get("harmful")} for r in rows]
            return {"seed": chain.seed, "rows": [row for row in kept if row["weight"] is not None]}
    return None


def _answers(store: Store, chain: Chain) -> list[dict[str, Any]]:
    node = chain.nodes[-1]
    path: Path = store.path(node.stage, node.key) / ANSWERS
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [{"prompt": a["prompt"], "answer": a["answer"], "harmful": a["harmful"]} for a in found]


def _escapes(
    store: Store, groups: dict[str, list[Chain]], reference: str, variants: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Prompts that the reference answers harmfully and the best attacked variant does not."""
    attacked = [v for v in variants if v["name"] != reference and v["attack"] == _attack_on(variants, reference)]
    if not attacked:
        return []
    best = min(attacked, key=lambda variant: variant["harmful_score"]["value"])["name"]
    before, after = _answers(store, groups[reference][0]), _answers(store, groups[best][0])
    return [
        {
            "prompt": one["prompt"],
            "before": {"variant": reference, "answer": one["answer"]},
            "after": {"variant": best, "answer": other["answer"]},
        }
        for one, other in zip(before, after, strict=True)
        if one["harmful"] and not other["harmful"]
    ][:SAMPLES]


def _attack_on(variants: list[dict[str, Any]], name: str) -> dict[str, Any]:
    attack: dict[str, Any] = next(variant["attack"] for variant in variants if variant["name"] == name)
    return attack
