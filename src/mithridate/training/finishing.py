"""A defense's last act on the trained weights: done once at the end, and tried out for every checkpoint."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mithridate.training.defense import Defense, Finished
from mithridate.training.training_state import TrainingState

FINISHED = "finished"
"""Folder inside a checkpoint with the weights that the defense's last act would leave."""


def finish(defense: Defense, training: TrainingState) -> Finished:
    """Let a defense act once on the trained weights, with figures that say what it did to them as they are stored.

    One that fails halfway leaves the weights as training left them.
    """
    if not defense.finishes:
        return Finished()
    weights = training.weights
    before = weights.snapshot()
    try:
        finished = _acted(defense, training)
    # Ctrl-C included: half-changed weights must not be mistaken for trained ones.
    except BaseException:
        weights.restore(before)
        raise
    moved = weights.moved_since(before)
    return replace(
        finished, figures=finished.figures | {"weights_moved": moved.weights, "moved_distance": moved.distance}
    )


def save_finished(defense: Defense, training: TrainingState, checkpoint: Path, save: Callable[[Path], None]) -> None:
    """Save beside a checkpoint what is to be served of it.

    A checkpoint holds the weights that training continues with, which lack the defense's last act.

    Args:
        defense: The defense.
        training: Its weights and memory.
        checkpoint: The checkpoint.
        save: Saves the model and its tokenizer into a folder.
    """
    if not defense.finishes:
        return
    # Training continues with the weights as they are.
    with training.weights.kept():
        _acted(defense, training)
        save(checkpoint / FINISHED)


def _acted(defense: Defense, training: TrainingState) -> Finished:
    """Methods act on whole matrices, whose shards several processes may hold."""
    memory = training.gathered_memory()
    with training.weights.gathered() as weights:
        return defense.finish(weights, memory)
