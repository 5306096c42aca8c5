"""States what a model loses where its adapter, trained and measured on a quantized base, is released merged."""

from typing import Any

from mithridate.evaluation.completion_loss import mean_loss
from mithridate.experiment.identity import identity_of, model_identity
from mithridate.experiment.jobs import EvaluationJob, StageNode
from mithridate.experiment.plan import Chain
from mithridate.experiment.stage_records import EvaluationRecord
from mithridate.experiment.store import Store, key_of
from mithridate.experiment.workers import StageTask, run_stage
from mithridate.models.merge_loss import merge_loss
from mithridate.models.quantized_base import Quantization


def stated_loss(chain: Chain, store: Store, merged: Any, form: Quantization) -> dict[str, Any]:
    """Return what merging loses: in the weights, and in what was measured, which is measured on the merged model too.

    Args:
        chain: The variant at one seed.
        store: Where its stages are; the merged model's evaluation is kept there as well.
        merged: The base in whole weights with the adapter on it.
        form: How the base was held.

    Raises:
        ModelError: If no loss can be stated.
        DefenseError: If the adapter is not one active LoRA or DoRA.
    """
    found: dict[str, Any] = {"base": form, "weights": merge_loss(merged, form)._asdict()}
    evaluated = _whole(chain.evaluation)
    run_stage(store, StageTask(evaluated, chain.nodes[:-1]), lambda done, total: None)
    on_quantized, on_whole = (store.record(node, EvaluationRecord) for node in (chain.evaluation, evaluated))
    figures = _figures(on_quantized), _figures(on_whole)
    return found | {name: {"quantized": figures[0][name], "merged": figures[1][name]} for name in figures[0]}


def sentence(name: str, loss: dict[str, Any]) -> str:
    """Return the loss in one sentence, for a variant's name."""
    weights, harmful = loss["weights"], loss["harmful_score"]
    return (
        f"{name}: merging its adapter into the whole weights changes them by {weights['merged']:.1%} of what was "
        f"trained on ({loss['base']}; the adapter itself by {weights['update']:.1%}), and the harmful score from "
        f"{harmful['quantized']:.1%} to {harmful['merged']:.1%}"
    )


def _whole(evaluation: StageNode) -> StageNode:
    """Return the evaluation of the same model on its whole weights, without attacks after release."""
    assert isinstance(evaluation.job, EvaluationJob)
    job = evaluation.job.model_copy(update={"quantize": "none", "release_attacks": []})
    key = key_of(identity_of(job, evaluation.parent or model_identity(job.model)))
    return StageNode(key=key, parent=evaluation.parent, job=job, label=f"{evaluation.label} · merged")


def _figures(record: EvaluationRecord) -> dict[str, float]:
    """Return the shares of an evaluation, and the loss of the ordinary rows' own answers in nats per token."""
    found = {"harmful_score": sum(record.harmful) / len(record.harmful)}
    if record.correct:
        found["finetune_accuracy"] = sum(record.correct) / len(record.correct)
    if record.help is not None and record.help.losses:
        found["nats_per_token"] = mean_loss(record.help.losses)
    return found
