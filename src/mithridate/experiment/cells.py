"""Turns the records of a variant's stages into cells, and cells into points over seeds."""

import json
from collections.abc import Sequence
from typing import Any

from mithridate.evaluation.intervals import Score
from mithridate.experiment.helped_answers import HelpedAnswers, helped_answers
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.plan import Chain
from mithridate.experiment.stage_folder import ROW_WEIGHTS
from mithridate.experiment.stage_records import EvaluationRecord, RepairRecord
from mithridate.experiment.store import Store
from mithridate.report.axis_results import AxisPoint, MeasuredCell, Setting
from mithridate.report.result_parts import WeightedRows
from mithridate.report.row_separation import separation
from mithridate.report.scores import ScoreOverSeeds, over_seeds, summed_up


def evaluation(store: Store, chain: Chain) -> EvaluationRecord:
    """Return what the evaluation of a variant found at one setting and seed."""
    return store.record(chain.evaluation, EvaluationRecord)


def help_of(store: Store, chain: Chain) -> tuple[HelpedAnswers, HelpedAnswers] | None:
    """Return what a variant and its aligned model help with; None where that was not measured."""
    if chain.aligned is None:
        return None
    found, aligned = evaluation(store, chain).help, store.record(chain.aligned, EvaluationRecord).help
    if found is None or aligned is None:
        return None
    # Both against the aligned model's limit: the share kept must compare two counts of the same kind.
    return helped_answers(found, aligned), helped_answers(aligned, aligned)


def row_weights(store: Store, nodes: Sequence[StageNode], seed: int) -> WeightedRows | None:
    """Return the row weights of the first stage that weighed rows, for the rows it drew; None where no stage did.

    Of a stage in several rounds they are those of the last one, in which an attack reaches what it is after.
    """
    weighed = [node for node in nodes if (store.path(node) / ROW_WEIGHTS).is_file()]
    if not weighed:
        return None
    last = [node for node in weighed if node.stage == weighed[0].stage][-1]
    text = (store.path(last) / ROW_WEIGHTS).read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    # A row that no step drew has no weight; a zero in its place would look like a row judged harmful.
    drawn = [row for row in rows if row["weight"] is not None]
    kept = [{"row": row["row"], "weight": row["weight"], "harmful": row.get("harmful")} for row in drawn]
    return WeightedRows.model_validate({"seed": seed, "rows": kept})


def measured(store: Store, chain: Chain) -> MeasuredCell:
    """Return one cell, from the records of its stages."""
    found, helped = evaluation(store, chain), help_of(store, chain)
    # Fine-tuning only: the rows of alignment are all safe, so there is nothing to separate.
    tuning = [node for node in chain.nodes if node.stage == "finetuning"]
    weights = row_weights(store, tuning, chain.seed)
    separated = None if weights is None else separation(weights)
    return MeasuredCell(
        variant=chain.variant.name,
        setting=chain.setting,
        seed=chain.seed,
        harmful_score=over_seeds([found.harmful]),
        finetune_accuracy=over_seeds([found.correct]),
        over_refusal=None if found.refused is None else over_seeds([found.refused]),
        helpfulness=None if helped is None else over_seeds([helped[0].helped]),
        row_weight_auc=None if separated is None else separated.auroc,
        distance=_distance(store, chain),
        evaluation=chain.evaluation.key,
    )


def _distance(store: Store, chain: Chain) -> float | None:
    # Distances of successive repairs do not add up, and the norm of their sum was not measured.
    repairs = [node for node in chain.nodes if node.stage == "posttuning"]
    return store.record(repairs[0], RepairRecord).distance if len(repairs) == 1 else None


def points(cells: Sequence[MeasuredCell]) -> list[AxisPoint]:
    """Return one point per variant and setting, over the seeds of its cells, in order of appearance."""
    groups: dict[tuple[str, Setting], list[MeasuredCell]] = {}
    for cell in cells:
        groups.setdefault((cell.variant, cell.setting), []).append(cell)
    return [
        AxisPoint(
            variant=variant,
            setting=setting,
            harmful_score=_together([cell.harmful_score for cell in group]),
            finetune_accuracy=_together([cell.finetune_accuracy for cell in group]),
            over_refusal=_optional([cell.over_refusal for cell in group]),
            helpfulness=_optional([cell.helpfulness for cell in group]),
        )
        for (variant, setting), group in groups.items()
    ]


def _together(seeds: Sequence[ScoreOverSeeds]) -> ScoreOverSeeds:
    return summed_up([Score(seed.value, seed.low, seed.high, seed.n) for seed in seeds])


def _optional(seeds: Sequence[ScoreOverSeeds | None]) -> ScoreOverSeeds | None:
    # Left out rather than counted as zero.
    known = [seed for seed in seeds if seed is not None]
    return _together(known) if known else None
