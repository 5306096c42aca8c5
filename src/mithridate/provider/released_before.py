"""Tuning once more on a model that an earlier decision released."""

from pathlib import Path
from typing import Any

from mithridate.errors import CheckpointError, UsageError
from mithridate.experiment.identity import model_identity
from mithridate.model_names import locate, path_of
from mithridate.models.serving_forms import is_quantized
from mithridate.provider.decision import Decision, read_decision
from mithridate.provider.hand_over import verify_release
from mithridate.provider.judged_files import CARD, MODEL
from mithridate.provider.model_card import PROOF


def aligned_behind(model: str, aligned: str | None) -> str | None:
    """Return the aligned model behind a released one, with which the model tuned again is compared.

    Without it, helpfulness and harm would be compared with what the last tuning left of them, and a customer could go
    down in steps that are each allowed.

    Args:
        model: The model to tune.
        aligned: The provider's aligned model; needed where ``model`` is one that an earlier call released.

    Returns:
        None where ``model`` is no released one, and so itself the aligned model.

    Raises:
        UsageError: If ``aligned`` is missing or is not the model behind the released one, or weights are quantized.
        CheckpointError: If the released bytes are not those that were judged, or their decision is not beside them.
    """
    folder = path_of(model)
    if is_quantized(folder):
        raise UsageError(f"{folder} holds quantized weights, which cannot be tuned; give the model before that")
    earlier = read_decision(folder.parent) if folder.name == MODEL else None
    if earlier is None:
        if _has_card(folder):
            raise CheckpointError(
                f"{folder} holds a released model without its decision, so that nothing proves its bytes; give the "
                f"{MODEL} folder inside the --out folder of the earlier mithridate tune"
            )
        if aligned is not None and model_identity(locate(aligned)) != model_identity(locate(model)):
            raise UsageError(f"{model} is no model that an earlier mithridate tune released; leave --aligned out")
        return None
    verify_release(folder.parent)
    if aligned is None:
        raise UsageError(f"{folder} is a model that was released earlier; name the aligned model behind it: --aligned")
    if _behind(earlier) != model_identity(locate(aligned)):
        raise UsageError(f"{aligned} is not the aligned model behind {folder}; name the one that it was tuned from")
    return locate(aligned, tokenizer=True)


def _has_card(folder: Path) -> bool:
    card = folder / CARD
    return card.is_file() and PROOF in card.read_text(encoding="utf-8", errors="replace")


def _behind(decision: Decision) -> Any:
    found = decision.reference or decision.model
    return found["hub"] if set(found) == {"hub"} else found
