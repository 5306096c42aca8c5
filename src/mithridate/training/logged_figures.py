"""The figures that a defense logged while it trained, among those that the host logs."""

from collections.abc import Sequence
from typing import Any

# Whatever else is in the log is a figure of the defense's, which names them as it likes.
_OF_THE_HOST = {
    *("loss", "grad_norm", "learning_rate", "entropy", "num_tokens", "mean_token_accuracy", "epoch", "step"),
    *("train_runtime", "train_loss", "train_samples_per_second", "train_steps_per_second", "total_flos"),
}


def logged_means(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the mean over a training of every figure that its defense logged.

    Args:
        history: The entries of the host's log.
    """
    names = dict.fromkeys(name for entry in history for name in entry if name not in _OF_THE_HOST)
    logged = {name: [entry[name] for entry in history if name in entry] for name in names}
    return {name: sum(values) / len(values) for name, values in logged.items()}
