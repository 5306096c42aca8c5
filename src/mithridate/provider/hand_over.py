"""Hands a released model over, and proves later that its bytes are those that were judged."""

import shutil
from pathlib import Path

from mithridate.errors import CheckpointError, DataError
from mithridate.experiment.stage_folder import MODEL as STAGE_MODEL
from mithridate.provider.decision import Decision, read_decision
from mithridate.provider.judged_files import CARD, MODEL, compare_files
from mithridate.provider.model_card import model_card


def hand_over(decision: Decision, judged: Path | None, folder: Path) -> None:
    """Make the folder's model what the decision says: there whole, or not there.

    Args:
        decision: The decision, already on disk.
        judged: Folder of the stage that holds the judged model.
        folder: Folder of the decision.

    Raises:
        CheckpointError: If the judged model is not there or its bytes are not those that were judged.
    """
    target = folder / MODEL
    if decision.outcome != "released" or judged is None:
        # Whatever lies there was put there by something else.
        if target.exists():
            raise CheckpointError(f"{target} exists, but the decision is a refusal; remove it")
        return
    if target.is_dir():
        compare_files(target, decision.files, _remedy(target))
        return
    part = target.with_name(f"{MODEL}.part")
    if part.exists():  # left by a kill at this point
        shutil.rmtree(part)
    if not (judged / STAGE_MODEL).is_dir():
        raise CheckpointError(f"{judged} is missing, and with it the judged model; remove {folder} and tune again")
    shutil.copytree(judged / STAGE_MODEL, part)
    # Where the copy differs, so does the stage it was copied from: only all of it anew mends that.
    compare_files(part, decision.files, _remedy(folder))
    (part / CARD).write_text(model_card(decision), encoding="utf-8")
    part.rename(target)


def verify_release(folder: Path) -> Decision:
    """Return the decision in a folder after comparing the released bytes with those that were judged.

    Raises:
        DataError: If there is no decision.
        CheckpointError: If a file was altered, added or removed, or a model lies beside a refusal.
    """
    decision = read_decision(folder)
    if decision is None:
        raise DataError(f"{folder} holds no decision; give the --out folder of mithridate tune")
    if decision.outcome == "released":
        if not (folder / MODEL).is_dir():
            raise CheckpointError(f"{folder / MODEL} is missing; run mithridate tune again to finish the release")
        compare_files(folder / MODEL, decision.files, _remedy(folder / MODEL))
    elif (folder / MODEL).exists():
        raise CheckpointError(f"{folder / MODEL} exists, but the decision is a refusal; do not serve it")
    return decision


def _remedy(folder: Path) -> str:
    return f"do not serve it; remove {folder} and run mithridate tune again"
