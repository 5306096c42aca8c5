"""Arguments of a gradient that contradict each other."""

import torch

from mithridate.errors import DefenseError
from mithridate.training.scored_rows import LogWeights, Loss
from mithridate.training.step_loss import Features, StepLoss
from mithridate.training.step_passes import Wanted


def refuse_contradictions(
    wanted: Wanted,
    log_weights: LogWeights | None,
    loss: Loss | None,
    step_loss: StepLoss | None,
    features: Features | None,
) -> None:
    """Refuse arguments of ``gradient`` that contradict each other, or that nothing would use.

    Raises:
        DefenseError: In one sentence.
    """
    if log_weights is not None and (loss is not None or step_loss is not None):
        raise DefenseError("rows are weighted by log_weights or inside a loss, not both; multiply within the loss")
    if loss is not None and step_loss is not None:
        raise DefenseError("loss= and step_loss= are two losses; take a gradient of each and add them")
    if (step_loss is None) != (features is None):
        raise DefenseError("step_loss= is a loss of features=; give both or neither")
    refuse_two_completions(wanted)
    kept = {"paired": wanted.paired, "hidden": wanted.hidden, "logits": wanted.logits, "reference": wanted.reference}
    unread = [name for name, value in kept.items() if value]
    if unread and log_weights is None and loss is None and step_loss is None:
        raise DefenseError(
            f"{unread[0]}= is for a loss or a row weighting to read; give loss=, step_loss= or log_weights="
        )
    if not torch.is_grad_enabled():
        raise DefenseError("gradients are off here, inside at_start or torch.no_grad; use step.score instead")


def refuse_two_completions(wanted: Wanted) -> None:
    """Refuse completions in the place of the rows' own where others are to stand beside these.

    Raises:
        DefenseError: In one sentence.
    """
    if wanted.completions and wanted.paired:
        raise DefenseError(
            "completions= takes the place of the rows' own completions and paired= stands beside them; give one"
        )
