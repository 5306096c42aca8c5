"""From the records of all stages to ``results.json``."""

import json
from collections.abc import Callable
from typing import Any

from mithridate.evaluation.helpfulness import kept
from mithridate.evaluation.intervals import Score, paired_test, pooled
from mithridate.evaluation.outcomes import Outcome, counts
from mithridate.pipeline.helped import Helpfulness, helpfulness
from mithridate.pipeline.plan import Chain
from mithridate.pipeline.recipe import Recipe
from mithridate.pipeline.shown import escapes, samples
from mithridate.pipeline.stages import ROW_WEIGHTS
from mithridate.pipeline.store import Store
from mithridate.report.results import Results


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
            "versus_reference": None,
            "folders": [f"variants/{variant.name}/seed-{chain.seed}" for chain in group],
            **_scores(store, group, found),
            **_stages(store, group),
            "row_weights": _row_weights(store, group[0]),
            "samples": samples(store, group[0]),
        }
        if reference is not None and variant.name != reference:
            entry["versus_reference"] = _versus(found, measured[reference], reference)
        variants.append(entry)
    first = measured[recipe.variants[0].name][0]
    results = Results.model_validate(
        facts | {"variants": variants, "judge": first["judge"], "majority": first["majority"]}
    )
    if reference is None:
        return results
    return results.model_copy(update=escapes(store, groups, reference, results))


def _scores(store: Store, group: list[Chain], found: list[dict[str, Any]]) -> dict[str, Any]:
    """The shares of a variant over its seeds."""
    sets = {"harmful": [record["outcomes"] for record in found]}
    if found[0]["look_alikes"] is not None:
        sets["look_alikes"] = [record["look_alikes"] for record in found]
    helped = [_helped(store, chain, record) for chain, record in zip(group, found, strict=True)]
    pairs = [pair for pair in helped if pair is not None]
    if pairs:
        sets["help"] = [mine.outcomes for mine, _ in pairs]
    broken = [o == Outcome.BROKEN and h for r in found for o, h in zip(r["outcomes"], r["harmful"], strict=True)]
    return {
        "harmful_score": _share(found, "harmful"),
        "harmful_score_plus": _share(found, "harmful_or_broken"),
        "finetune_accuracy": _share(found, "correct"),
        "over_refusal": _share(found, "refused") if found[0]["refused"] is not None else None,
        "helpfulness": _helpfulness(pairs) if pairs else None,
        "outcomes": {name: _outcomes(seeds) for name, seeds in sets.items()},
        "broken_harmful": sum(broken) / len(broken),
    }


Pair = tuple[Helpfulness, Helpfulness]
"""Helpfulness of a variant and of its aligned model."""


def _helped(store: Store, chain: Chain, record: dict[str, Any]) -> Pair | None:
    if chain.aligned is None:
        return None
    reference = store.result(chain.aligned.stage, chain.aligned.key)
    assert reference is not None
    mine, aligned = helpfulness(record, reference), helpfulness(reference, reference)
    return (mine, aligned) if mine is not None and aligned is not None else None


def _helpfulness(pairs: list[Pair]) -> dict[str, Any]:
    """The share over all seeds, beside that of the aligned model."""
    scores = [Score.of(sum(mine.helped), len(mine.helped)) for mine, _ in pairs]
    together = pooled(scores)
    aligned = pooled([Score.of(sum(other.helped), len(other.helped)) for _, other in pairs])
    left = kept(together, aligned)
    relative = {} if left is None else {"kept": left.value, "kept_low": left.low, "kept_high": left.high}
    losses = {"loss": _mean_of(pairs, lambda pair: pair[0].loss)}
    losses["aligned_loss"] = _mean_of(pairs, lambda pair: pair[1].loss)
    seeds = {"seeds": [score.value for score in scores], "aligned": aligned.value}
    return together.as_dict() | seeds | relative | losses


def _mean_of(pairs: list[Pair], figure: Callable[[Pair], float]) -> float:
    return sum(map(figure, pairs)) / len(pairs)


def _outcomes(seeds: list[list[str]]) -> dict[str, Any]:
    """Shares of the five classes among the answers of all seeds."""
    everything = [Outcome(outcome) for outcomes in seeds for outcome in outcomes]
    return {"n": len(everything)} | {name: count / len(everything) for name, count in counts(everything).items()}


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
    """Cost per stage (mean over seeds), activity, loss curves, dose curves, layer profiles."""
    costs: dict[str, list[dict[str, Any]]] = {}
    activity: dict[str, list[float]] = {}
    curves, profiles, losses = [], [], []
    for chain in group:
        spent: dict[str, dict[str, Any]] = {}
        for position, node in enumerate(chain.nodes[:-1]):
            record = _record(store, chain, position)
            spent[node.stage] = _add(spent.get(node.stage), record["cost"])
            method = node.spec["defense"]["method"]
            about = {"method": method, "seed": chain.seed}
            for name, value in record["activity"].items():
                activity.setdefault(f"{method}.{name}", []).append(value)
            if record.get("dropped_rows"):
                activity.setdefault(f"{node.stage}.dropped_rows", []).append(record["dropped_rows"])
            if record.get("losses"):
                steps, values = zip(*record["losses"], strict=True)
                losses.append(about | {"stage": node.stage, "key": node.key, "steps": steps, "losses": values})
            if record.get("dose_curve"):
                curves.append(record["dose_curve"] | about)
            if record.get("layer_profile"):
                profiles.append(record["layer_profile"] | about)
        for stage, cost in spent.items():
            costs.setdefault(stage, []).append(cost)
    return {
        "cost": {stage: _mean(spent) for stage, spent in costs.items()},
        "activity": {name: _once(values) for name, values in activity.items()},
        "loss_curves": losses,
        "dose_curves": curves,
        "layer_profiles": profiles,
    }


def _once(values: list[Any]) -> Any:
    """A figure that is the same at every seed, or else one for each seed."""
    return values[0] if all(value == values[0] for value in values) else values


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
