"""The merged weights of a model that stays on disk: read tensor by tensor, written to an output in files of its own."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mithridate.errors import DefenseError, ModelError
from mithridate.models.checkpoint_folder import CheckpointFolder
from mithridate.models.fused_head import causal_of
from mithridate.models.in_order import in_order as in_their_order
from mithridate.models.merged_weights import Block, MergedWeights, T, Work, some
from mithridate.models.tensor_files import EVERY_ROW, StoredTensor

PIECE = 1 << 15
"""Entries that are worked on at a time: a quarter of a megabyte in float64, a few of which stay in a processor's cache.
Torch spreads more than these over threads, which would wait for each other in every operation."""
BLOCK = 1 << 18
"""Entries that are read and written at a time: so few that the C library's allocator hands out the same memory again,
where it would ask the system for larger blocks each time."""
THREADS = 8
"""Most threads that work on blocks, each of which holds one; a disk is slower than eight."""


class WeightOutput(Protocol):
    """Where repaired weights go."""

    def pending(self, names: Sequence[str], done: Any) -> list[str]:
        """Return those of the weights that are not finished; no others will change."""

    def finished(self, name: str) -> None:
        """Take note that nothing more is written to a weight."""

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
        whole: Names of weights that cannot be had in rows.
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

    def held(self, name: str, rows: slice = EVERY_ROW) -> Tensor:
        """As `read`, without a search for NaN where no adapter is merged in."""
        parameter, lora = self._stored[name]
        return self.tensor(name).read(rows) if lora is None and parameter.is_meta else super().held(name, rows)

    def each(self, names: Sequence[str], done: Any, in_order: bool = False) -> Iterator[str]:
        """Yield the weights that are not written yet, file by file."""
        for name in self._pending(names, done, in_order):
            yield name
            self._finished(name)
        # As if no file had been finished before: sums of floats depend on their order.
        done.reorder(names)

    def each_block(self, names: Sequence[str], done: Any, work: Work[T]) -> Iterator[Block[T]]:
        """Yield blocks of the weights that are not written yet, in the order of the files, while threads go ahead."""
        blocks = ((name, rows) for name in self._pending(names, done) for rows in self._blocks(name))
        threads = min(torch.get_num_threads(), THREADS)
        before = None
        for (name, rows), result in in_their_order(lambda block: work(*block), blocks, threads):
            if before not in (None, name):
                self._finished(before)
            before = name
            yield Block(name, rows, result)
        if before is not None:
            self._finished(before)
        done.reorder(names)

    def pieces(self, values: Tensor) -> Iterator[slice]:
        """Yield rows of about ``PIECE`` entries."""
        yield from _rows(values.shape, PIECE)

    def differs(self, other: MergedWeights, name: str) -> bool:
        """Return whether a weight is another one in the other model; reading stops at the first difference."""
        return any(
            not torch.equal(self.read(name, rows=rows), other.read(name, rows=rows)) for rows in self._blocks(name)
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

    def _pending(self, names: Sequence[str], done: Any, in_order: bool = False) -> list[str]:
        """Return the weights that are not written yet, in the order in which their files hold them."""
        found = list(names) if self.output is None else self.output.pending(names, done)
        # A hash follows what is written, which it can do in the order of the bytes alone.
        return found if in_order else sorted(found, key=self._place)

    def _place(self, name: str) -> tuple[str, int]:
        tensor = self.tensor(name)
        return tensor.path.name, tensor.start

    def _finished(self, name: str) -> None:
        if self.output is not None:
            self.output.finished(name)

    def _blocks(self, name: str) -> Iterator[slice]:
        """Yield rows of about ``BLOCK`` entries, of a weight that can be had in rows."""
        yield from (EVERY_ROW,) if name in self.whole else _rows(self.shape(name), BLOCK)

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
                torch.equal(first.read(rows), other.read(rows)) for rows in self._blocks(name)
            ):
                raise ModelError(
                    f"'{first.name}' and '{other.name}' are tied by the settings in {self.checkpoint.folder} but "
                    "differ in its files; set tie_word_embeddings to false in config.json, or save the model again"
                )


def _rows(shape: Sequence[int], entries: int) -> Iterator[slice]:
    """Yield rows that hold about so many entries."""
    if not shape:
        yield EVERY_ROW
        return
    step = rows_at_a_time(shape, entries)
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def rows_at_a_time(shape: Sequence[int], entries: int) -> int:
    """Return how many rows hold about so many entries, one at least."""
    return max(1, entries // max(1, math.prod(shape[1:])))


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
