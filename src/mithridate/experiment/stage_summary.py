"""Sums up what the stages of a variant cost and logged, over its seeds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from mithridate.experiment.jobs import StageNode, TrainingJob
from mithridate.experiment.plan import Chain
from mithridate.experiment.stage_records import Cost, RepairRecord, TrainingRecord
from mithridate.experiment.store import Store
from mithridate.report.result_parts import LayerNorms, LossCurve, StageCost, VariantDoses


class StageSummary(NamedTuple):
    """What a variant's stages did.

    Attributes:
        cost: Per stage: mean time and highest memory use over seeds, and the passes.
        activity: Every figure that a defense logged; one for each seed if they differ.
        loss_curves: One per training and seed.
        dose_curves: One per search and seed.
        layer_profiles: One per displacement and seed.
    """

    cost: dict[str, StageCost]
    activity: dict[str, Any]
    loss_curves: list[LossCurve]
    dose_curves: list[VariantDoses]
    layer_profiles: list[LayerNorms]


def summarize_stages(store: Store, chains: Sequence[Chain]) -> StageSummary:
    """Sum up the stages of one variant, one chain per seed."""
    summary = StageSummary({}, {}, [], [], [])
    costs: dict[str, list[Cost]] = {}
    logged: dict[str, list[float]] = {}
    for chain in chains:
        spent: dict[str, Cost] = {}
        # Without the evaluation: its cost is that of measuring, not of the defense.
        for node in chain.nodes[:-1]:
            record = stage_record(store, node)
            spent[node.stage] = _added(spent.get(node.stage), record.cost)
            for name, value in record.activity.items():
                logged.setdefault(f"{node.job.method}.{name}", []).append(value)
            if isinstance(record, TrainingRecord):
                # Only where rows were lost; a zero for every stage would hide the ones that matter.
                if record.dropped_rows:
                    logged.setdefault(f"{node.stage}.dropped_rows", []).append(record.dropped_rows)
                summary.loss_curves.extend(_losses(node, record, chain.seed))
            else:
                _add_curves(summary, node, record, chain.seed)
        for stage, cost in spent.items():
            costs.setdefault(stage, []).append(cost)
    summary.cost.update({stage: _mean(spent) for stage, spent in costs.items()})
    summary.activity.update({name: _once(values) for name, values in logged.items()})
    return summary


def stage_record(store: Store, node: StageNode) -> TrainingRecord | RepairRecord:
    """Return what a stage before the evaluation found."""
    if isinstance(node.job, TrainingJob):
        return store.record(node, TrainingRecord)
    return store.record(node, RepairRecord)


def _losses(node: StageNode, record: TrainingRecord, seed: int) -> list[LossCurve]:
    if not record.losses:
        return []
    steps, losses = zip(*record.losses, strict=True)
    return [
        LossCurve(
            stage=node.stage, method=node.job.method, seed=seed, key=node.key, steps=list(steps), losses=list(losses)
        )
    ]


def _add_curves(summary: StageSummary, node: StageNode, record: RepairRecord, seed: int) -> None:
    about = {"method": node.job.method, "seed": seed}
    if record.dose_curve:
        summary.dose_curves.append(VariantDoses.model_validate(record.dose_curve.model_dump() | about))
    if record.layer_profile:
        summary.layer_profiles.append(LayerNorms.model_validate(record.layer_profile.model_dump() | about))


def _once(values: list[float]) -> Any:
    """Return a figure once if it is the same at every seed, otherwise one for each seed."""
    # No mean: a count of changed weights, or a dose that was searched for, has none that means anything.
    return values[0] if all(value == values[0] for value in values) else values


def _added(known: Cost | None, cost: Cost) -> Cost:
    """Add up the costs of successive repairs: times and passes add up, the higher peak counts."""
    if known is None:
        return cost
    return Cost(
        seconds=known.seconds + cost.seconds,
        passes={name: known.passes[name] + cost.passes[name] for name in cost.passes},
        rows=_sum([count for count in (known.rows, cost.rows) if count is not None]),
        peak_bytes=max(known.peak_bytes, cost.peak_bytes),
    )


def _mean(costs: list[Cost]) -> StageCost:
    return StageCost(
        seconds=sum(cost.seconds for cost in costs) / len(costs),
        passes=costs[0].passes,  # settled by the defense and its settings, so the same at every seed
        rows=_sum([cost.rows / len(costs) for cost in costs if cost.rows is not None]),
        # Not the mean: a machine must hold the worst case.
        peak_bytes=max(cost.peak_bytes for cost in costs),
    )


def _sum(counts: list[float]) -> float | None:
    """Return the sum of counts; None where nothing was counted."""
    return sum(counts) if counts else None
