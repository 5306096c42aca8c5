"""What a training with a defense remembers beside weights and optimizer: new at its start, saved in checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mithridate.errors import CheckpointError
from mithridate.training.row_stream import Stream
from mithridate.training.row_weights import MeanRowWeights, RowShares
from mithridate.training.shard_files import is_vector, load_vectors, save_vectors
from mithridate.training.state import load_state, save_state
from mithridate.training.step_rows import Memory
from mithridate.training.trainable_weights import Weights

_VECTORS = "vectors"
"""Name of the types of what is saved by shards."""


class TrainingState:
    """The state of one training; making one sets the streams back to their beginning.

    Args:
        weights: The weights that are trained.
        streams: The streams that are drawn from beside the training rows, by name.
        rows: Rows of the training set.

    Attributes:
        memory: What the defense remembers between steps.
        row_weights: Weight of each training row, where the defense weighs rows; None otherwise.
        micro_batches: Those of the present step so far.
    """

    def __init__(self, weights: Weights, streams: Mapping[str, Stream], rows: int) -> None:
        self.weights = weights
        self.memory: Memory = {}
        self.row_weights: MeanRowWeights | None = None
        self.micro_batches: list[dict[str, Tensor]] = []
        self._streams = streams
        self._rows = rows
        self._keeps_start = False
        # A second training of one trainer draws the rows that the first one drew.
        for stream in streams.values():
            stream.drawn = 0

    def keep_start(self) -> None:
        """Keep a copy of the weights that the stage starts from."""
        self.weights.start = self.weights.snapshot()
        self._keeps_start = True

    def gathered_memory(self) -> Memory:
        """Return the memory with every vector over the weights whole, where they are split over processes."""
        weights = self.weights
        if weights.holders is None:
            return self.memory
        return {n: weights.whole(value) if is_vector(value, weights) else value for n, value in self.memory.items()}

    def add_row_weights(self, shares: RowShares) -> None:
        """Add the row weights of one optimizer step."""
        if self.row_weights is None:
            self.row_weights = MeanRowWeights(self._rows)
        self.row_weights.add(shares.rows, shares.relative())

    def save(self, folder: Path, tokens: int, writes: bool = True) -> None:
        """Write everything into a checkpoint.

        Args:
            folder: The checkpoint.
            tokens: Tokens trained on so far, which the host counts.
            writes: Whether this process writes what all have alike. Where weights are split over processes, all of
                them must call this, since each writes its shards.
        """
        # With a prefix, so that a defense's names cannot meet those of the trainer.
        found: dict[str, Any] = {f"defense.{name}": value for name, value in self.memory.items()}
        found |= {f"drawn.{name}": stream.drawn for name, stream in self._streams.items()}
        found["tokens"] = tokens
        if self._keeps_start:
            found["start"] = self.weights.start
        if self.row_weights is not None:
            found |= {"row_sums": self.row_weights.sums, "row_times": self.row_weights.times}
        vectors = {name: value for name, value in found.items() if is_vector(value, self.weights)}
        if vectors:
            save_vectors(folder, vectors, self.weights)
            found[_VECTORS] = {name: str(value[0].dtype).removeprefix("torch.") for name, value in vectors.items()}
        if writes:
            save_state(folder, {name: value for name, value in found.items() if name not in vectors})

    def load(self, folder: Path) -> int:
        """Restore everything from a checkpoint, and return the tokens trained on so far.

        Raises:
            CheckpointError: If a file is missing, or the checkpoint was written with other streams.
        """
        found = load_state(folder)
        if _VECTORS in found:
            found |= load_vectors(folder, found[_VECTORS], self.weights)
        device = self.weights.device
        prefix = "defense."
        # In place: the step of the running training holds this very dictionary.
        self.memory.update(
            {name.removeprefix(prefix): _on(device, value) for name, value in found.items() if name.startswith(prefix)}
        )
        for name, stream in self._streams.items():
            if f"drawn.{name}" not in found:
                raise CheckpointError(
                    f"{folder} was written without the stream '{name}'; resume with the defense it was started with"
                )
            stream.drawn = int(found[f"drawn.{name}"])
        if "start" in found:
            self.weights.start = found["start"]
            self._keeps_start = True
        if "row_sums" in found:
            self.row_weights = MeanRowWeights(self._rows)
            self.row_weights.sums, self.row_weights.times = found["row_sums"], found["row_times"]
        return int(found["tokens"])


def _on(device: torch.device, value: Any) -> Any:
    """Tensors of a list on a device; anything else as it is."""
    if not isinstance(value, list):
        return value
    return [item.to(device) if isinstance(item, Tensor) else item for item in value]
