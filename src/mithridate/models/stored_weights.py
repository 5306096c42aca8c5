"""The merged weights of a model that stays on disk: read tensor by tensor, written to an output in files of its own."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mithridate.errors import DefenseError, ModelError
from mithridate.models.checkpoint_folder import CheckpointFolder
from mithridate.models.fused_head import causal_of
from mithridate.models.merged_weights import MergedWeights, some
from mithridate.models.tensor_files import EVERY_ROW, StoredTensor

PIECE = 1 << 16
"""Entries of a weight that are worked on at a time: half a megabyte in float64, which stays in a processor's cache."""


class WeightOutput(Protocol):
    """Where repaired weights go."""

    def each(self, names: Sequence[str], done: Any) -> Iterator[str]:
        """Yield those of the weights that are not finished; each is finished when the next one is asked for."""

    def write(self, tensor: StoredTensor, rows: slice, values: Tensor) -> None:
        """Write some rows of a tensor."""


class StoredWeights(MergedWeights):
    """θ on disk.

    Args:
        model: The model without values, PEFT or plain; an adapter's parameters hold theirs.
        checkpoint: Where the base's values lie.

    Attributes:
        model: The model.
        checkpoint: Where the base's values lie.
        whole: Names of weights that are never worked on in pieces.
        output: Where values are written; None for a model that is only read.

    Raises:
        DefenseError: If weights are quantized, or the adapter is not one active LoRA or DoRA.
        ModelError: If the files hold other weights than the model has, or tied weights that differ.
    """

    def __init__(self, model: nn.Module, checkpoint: CheckpointFolder) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.output: WeightOutput | None = None
        super().__init__(model)
        self.names_by_id = {id(stored.parameter): name for name, stored in self._stored.items()}
        self.aliases = self._tied()
        self.whole = set(self.adapted_layers)
        for name in self.names:
            if self._stored[name].parameter.is_meta or self.stored_under(name):
                self._require_stored(name)

    def dtype(self, name: str) -> torch.dtype:
        """Type as stored in the base's files."""
        return self.tensor(name).dtype

    def tensor(self, name: str) -> StoredTensor:
        """Return where a weight lies in the base's files.

        Raises:
            ModelError: If they do not hold it.
        """
        tensors = self.checkpoint.tensors
        # Of tied weights any one may be the stored one.
        found = next((tensors[one] for one in (name, *self.aliases.get(name, ())) if one in tensors), None)
        if found is None:
            raise ModelError(
                f"{self.checkpoint.folder} lacks '{name}', which a model of its settings has; load the model and save "
                "it again with save_pretrained, or repair it in memory"
            )
        return found

    def stored_under(self, name: str) -> list[StoredTensor]:
        """Return every place in the base's files where a weight lies; tied weights may be stored twice."""
        tensors = self.checkpoint.tensors
        return [tensors[one] for one in (name, *self.aliases.get(name, ())) if one in tensors]

    def changed_by_adapter(self, name: str) -> bool:
        """Return whether the adapter changes a weight or replaces it, so that it is not as in the base's files."""
        parameter, lora = self._stored[name]
        return lora is not None or not parameter.is_meta

    def plain(self, name: str, rows: slice = EVERY_ROW) -> Tensor:
        """Return W in its own type, without LoRA.

        Raises:
            ModelError: If it holds NaN or Inf.
        """
        parameter = self._stored[name].parameter
        value = self.tensor(name).read(rows) if parameter.is_meta else some(parameter.detach(), rows)
        require_finite(value, f"{name} in {self.checkpoint.folder}")
        return value

    def each(self, names: Sequence[str], done: Any) -> Iterator[str]:
        """Yield the weights that are not written yet, file by file."""
        yield from names if self.output is None else self.output.each(names, done)

    def pieces(self, name: str) -> Iterator[slice]:
        """Yield rows of about ``PIECE`` entries."""
        shape = self.shape(name)
        if name in self.whole or not shape:
            yield EVERY_ROW
            return
        step = max(1, PIECE * shape[0] // max(1, self.tensor(name).size // self.dtype(name).itemsize))
        for start in range(0, shape[0], step):
            yield slice(start, min(start + step, shape[0]))

    def differs(self, other: MergedWeights, name: str) -> bool:
        """Return whether a weight is another one in the other model; reading stops at the first difference."""
        return any(
            not torch.equal(self.read(name, rows=rows), other.read(name, rows=rows)) for rows in self.pieces(name)
        )

    def write(self, name: str, values: Tensor, rows: slice = EVERY_ROW) -> None:
        """Write values to the output, wherever the weight lies in the base's files."""
        assert self.output is not None  # a repair writes to the model it repairs alone
        for tensor in self.stored_under(name):
            self.output.write(tensor, rows, values)

    def _require_values(self, name: str, parameter: Tensor) -> None:
        if not parameter.is_meta:
            super()._require_values(name, parameter)

    def _value(self, name: str, rows: slice) -> Tensor:
        return self.plain(name, rows)

    def _tied(self) -> dict[str, tuple[str, ...]]:
        """Return the other names of tied weights by their first."""
        aliases: dict[str, tuple[str, ...]] = {}
        for name, parameter in _named(self.model):
            first = self.names_by_id.get(id(parameter))
            # A copy that an adapter has trained is a weight of its own under the name of the one it replaces.
            if first is not None and name not in self._stored:
                aliases[first] = (*aliases.get(first, ()), name)
        return aliases

    def _require_stored(self, name: str) -> None:
        for tensor in self.stored_under(name) or [self.tensor(name)]:
            if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
                raise DefenseError(f"{tensor.name} is quantized ({tensor.dtype}); give the model's weights in bf16")
            if tensor.shape != self.shape(name):
                raise ModelError(
                    f"'{tensor.name}' has shape {tensor.shape} in {tensor.path}, {self.shape(name)} by the settings in "
                    f"{self.checkpoint.folder}; save the model again with save_pretrained"
                )
        first, *others = self.stored_under(name) or [self.tensor(name)]
        for other in others:
            if other.dtype != first.dtype or not all(
                torch.equal(first.read(rows), other.read(rows)) for rows in self.pieces(name)
            ):
                raise ModelError(
                    f"'{first.name}' and '{other.name}' are tied by the settings in {self.checkpoint.folder} but "
                    "differ in its files; set tie_word_embeddings to false in config.json, or save the model again"
                )


def require_finite(value: Tensor, name: str) -> None:
    """Refuse values with NaN or Inf among them.

    Raises:
        ModelError: If there are some.
    """
    # Both survive a sum, which is much cheaper than a test of every entry but can overflow on finite ones.
    if not bool(value.sum(dtype=torch.float32).isfinite()) and not bool(value.isfinite().all()):
        raise ModelError(f"the weights hold NaN or Inf ({name}): download or train the model again")


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield every parameter under each of its names, without PEFT's wrappers around the model."""
    for name, parameter in causal_of(model).named_parameters(remove_duplicate=False):
        yield name.replace(".base_layer", "").replace(".original_module", ""), parameter
