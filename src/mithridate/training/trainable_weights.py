"""The trainable weights of a model: read, displaced and restored in one place."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mithridate.errors import DefenseError
from mithridate.models.decoder import layer_of
from mithridate.models.modes import is_half
from mithridate.training.gradient import Gradient
from mithridate.training.processes import Processes
from mithridate.training.sharding import holders, of_shards, own, reshard, whole, write_whole
from mithridate.training.vector_terms import scale


class Moved(NamedTuple):
    """What a change did to stored weights.

    Attributes:
        weights: Number of weights that changed.
        distance: L2 norm of the change.
    """

    weights: int
    distance: float


class Weights:
    """The parameters a defense may move, in a fixed order.

    Args:
        model: The model that holds them.
        names: Names of the parameters to use; by default those with ``requires_grad``.

    Raises:
        DefenseError: If there is none.
    """

    def __init__(self, model: nn.Module, names: Sequence[str] | None = None) -> None:
        # In the model's order: gradients, copies and checkpoints are lists in this order.
        chosen = None if names is None else set(names)
        pairs = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if (parameter.requires_grad if chosen is None else name in chosen)
        ]
        if not pairs:
            raise DefenseError("the model has no trainable weights; pass peft_config, or unfreeze the weights to train")
        self.names = [name for name, _ in pairs]
        self._model = model
        # Their places and not the tensors: FSDP2 and `in_float32` put others there.
        self._places = [_place(model, name) for name in self.names]
        self._start: list[Tensor] | None = None
        self._summed: list[Tensor] = []

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters as they are registered now; under FSDP2 each is split over the processes."""
        reshard(self._model)
        return [module._parameters[name] for module, name in self._places]  # type: ignore[misc]

    @property
    def shards(self) -> list[Tensor]:
        """What this process holds of each parameter, as a view; the whole parameter where it is not split."""
        return [own(parameter.detach()) for parameter in self.parameters]

    @property
    def holders(self) -> Processes | None:
        """The processes that hold a shard of each parameter; None where every process holds them whole."""
        return holders(self.parameters)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.parameters[0].device

    @property
    def start(self) -> list[Tensor]:
        """Values at the start of the stage.

        Raises:
            DefenseError: If they were not kept.
        """
        if self._start is None:
            raise DefenseError(
                "the weights the stage started from were not kept, or are in place already; register "
                "references=('start',), and use one at_start block at a time"
            )
        return self._start

    @start.setter
    def start(self, values: Sequence[Tensor]) -> None:
        self._start = [value.to(p.device) for value, p in zip(values, self.parameters, strict=True)]

    @property
    def has_start(self) -> bool:
        """Whether the values at the start of the stage were kept."""
        return self._start is not None

    @torch.no_grad()
    def snapshot(self) -> list[Tensor]:
        """Return copies of the present values, of this process's shards."""
        return [shard.clone() for shard in self.shards]

    @torch.no_grad()
    def restore(self, saved: Sequence[Tensor]) -> None:
        """Put saved values back, bit for bit."""
        torch._foreach_copy_(self.shards, list(saved))

    @torch.no_grad()
    def add(self, displacement: Gradient) -> None:
        """Add a vector to the weights in place, rounded once to what they are stored in."""
        displacement.add_to(self.shards)

    @torch.no_grad()
    def moved_since(self, before: Sequence[Tensor]) -> Moved:
        """Return how many weights differ from earlier values, and by which L2 norm together."""
        pairs = list(zip(self.shards, before, strict=True))
        # In place, since a matrix in float64 takes twice its room.
        square = sum(float(now.to(torch.float64, copy=True).sub_(then).square_().sum()) for now, then in pairs)
        count = sum(int((now != then).sum()) for now, then in pairs)
        if (others := self.holders) is not None:
            square, count = others.total(square), int(others.total(count))
        return Moved(count, square**0.5)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever happens to the weights inside the block, they are restored after it, bit for bit."""
        saved = self.snapshot()
        try:
            yield
        finally:
            self.restore(saved)

    @contextmanager
    def moved(self, displacement: Gradient) -> Iterator[None]:
        """Displace the weights inside the block.

        Subtracting what was added would not give the same bits back, so a copy is kept.

        Raises:
            DefenseError: If weights are half precision, which would round most of a displacement away.
        """
        # bfloat16 has 8 bits: a displacement of 1 % of a weight mostly rounds to nothing.
        if any(is_half(parameter) for parameter in self.parameters):
            raise DefenseError(
                "weights in half precision round a displacement away; displace them inside `with step.precise():`"
            )
        with self.kept():
            self.add(displacement)
            # What it is made of may be needed by nobody else inside the block.
            del displacement
            yield

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Inside the block the weights are those that the stage started from, and nothing is differentiated.

        The two change places, so that no third copy is needed beside a gradient that is being added up.

        Raises:
            DefenseError: If the weights are at the start already.
        """
        start = self.start
        if any(a.dtype != b.dtype for a, b in zip(self.shards, start, strict=True)):
            # Float32 stands in for half precision: exchanged, the present weights would be rounded.
            with self.kept(), torch.no_grad():
                self.restore(start)
                yield
            return
        self._start = None
        exchanged = 0
        try:
            with _uninterrupted():
                for here, there in zip(self.shards, start, strict=True):
                    _exchange(here, there)
                    exchanged += 1
            with torch.no_grad():
                yield
        finally:
            with _uninterrupted():
                for here, there in list(zip(self.shards, start, strict=True))[:exchanged]:
                    _exchange(here, there)
                self._start = start

    @contextmanager
    def freezing(self, frozen: Sequence[bool]) -> Iterator[None]:
        """Inside the block frozen parameters take no gradient."""
        chosen = [p for p, fixed in zip(self.parameters, frozen, strict=True) if fixed]
        try:
            for parameter in chosen:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in chosen:
                parameter.requires_grad_(True)

    def in_layers(self, layers: Sequence[int]) -> list[bool]:
        """For each parameter whether it lies in one of these decoder blocks, or outside all of them."""
        wanted = {None, *(str(layer) for layer in layers)}
        return [layer_of(name) in wanted for name in self.names]

    def clear_grad(self) -> None:
        """Forget accumulated gradients."""
        self._summed = self.parameters
        for parameter in self._summed:
            parameter.grad = None

    def take_grad(self) -> list[Tensor]:
        """Hand over the accumulated gradients (zeros where a parameter took no part)."""
        grads = [
            # Layers that did not run, as under layer drop, have no gradient, and the vector must be whole.
            torch.zeros_like(own(parameter.detach())) if parameter.grad is None else own(parameter.grad)
            for parameter in self.parameters
        ]
        self.clear_grad()
        return grads

    def scale_grad(self, factor: float) -> None:
        """Multiply the gradients in place that were accumulated since ``clear_grad``."""
        # Those of `clear_grad`: between a pass and its gradient FSDP2 must not reshard what the pass made whole.
        scale([own(parameter.grad) for parameter in self._summed if parameter.grad is not None], factor)

    def set_grad(self, gradient: Gradient) -> None:
        """Hand a finished gradient to the optimizer; frozen parameters get none, so that it leaves them alone."""
        frozen = gradient.frozen or [False] * len(self.parameters)
        for parameter, tensor, fixed in zip(self.parameters, gradient.tensors, frozen, strict=True):
            # Gradients from inside `precise` are float32, and torch takes only those of the weight's own type.
            parameter.grad = None if fixed else of_shards(tensor.to(parameter.dtype), parameter)

    def whole(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """Return vectors over the weights whole on every process, made of the shards of all of them."""
        return [whole(of_shards(shard, p.detach())).clone() for shard, p in zip(shards, self.parameters, strict=True)]

    @contextmanager
    def gathered(self) -> Iterator["Weights"]:
        """Inside the block the weights are whole on every process; what is written into them is kept.

        Where they are not split, they are these very weights.
        """
        if self.holders is None:
            yield self
            return
        copies = _Gathered(self)
        yield copies
        for parameter, value in zip(self.parameters, copies.parameters, strict=True):
            write_whole(parameter, value)


class _Gathered(Weights):
    """Whole copies of weights that are split over processes.

    Args:
        weights: The weights.
    """

    def __init__(self, weights: Weights) -> None:
        self.names = weights.names
        self._copies = weights.whole(weights.shards)
        self._start = weights.whole(weights.start) if weights.has_start else None

    @property
    def parameters(self) -> list[Tensor]:
        """The copies."""
        return self._copies


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended, since weights that are half exchanged are neither's."""
    usual = signal.getsignal(signal.SIGINT)
    # Python calls its own handlers, and lets them be changed, in the main thread only.
    if not callable(usual) or threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if waiting:
            usual(*waiting[0])


@torch.no_grad()
def _exchange(first: Tensor, second: Tensor) -> None:
    """Exchange the values of two tensors, bit for bit."""
    kept = first.clone()
    first.copy_(second)
    second.copy_(kept)


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and the parameter's name there."""
    path, _, last = name.rpartition(".")
    return model.get_submodule(path), last
