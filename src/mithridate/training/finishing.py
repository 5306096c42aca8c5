"""A defense's last act on the trained weights: done once at the end, and tried out for every checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from mithridate.training.defense import Defense, Finished
from mithridate.training.step_rows import Memory
from mithridate.training.trainable import Weights

FINISHED = "finished"
"""Folder inside a checkpoint with the weights that the defense's last act would leave."""


def finish(defense: Defense, weights: Weights, memory: Memory) -> Finished:
    """Let a defense act once on the trained weights, with figures that say what it did to them as they are stored.

    One that fails halfway leaves the weights as training left them.
    """
    if not defense.finishes:
        return Finished()
    before = weights.snapshot()
    try:
        finished = defense.finish(weights, memory)
    # Ctrl-C included: half-changed weights must not be mistaken for trained ones.
    except BaseException:
        weights.restore(before)
        raise
    moved = weights.moved_since(before)
    return replace(
        finished, figures=finished.figures | {"weights_moved": moved.weights, "moved_distance": moved.distance}
    )


def save_finished(
    defense: Defense,
    weights: Weights,
    memory: Memory,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    checkpoint: Path,
) -> None:
    """Save beside a checkpoint what is to be served of it.

    A checkpoint holds the weights that training continues with, which lack the defense's last act.
    """
    if not defense.finishes:
        return
    # Training continues with the weights as they are.
    with weights.kept():
        defense.finish(weights, memory)
        model.save_pretrained(checkpoint / FINISHED)
    tokenizer.save_pretrained(checkpoint / FINISHED)
