"""Dropout masks that all passes of a step over the same rows share."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor


class RandomState(NamedTuple):
    """Random states of this process.

    Attributes:
        cpu: The CPU generator's.
        device: The accelerator's that the model is on; None on a CPU.
    """

    cpu: Tensor
    device: Tensor | None


class Randomness:
    """One random state per micro-batch of a step.

    The difference of two gradients over the same rows is meaningful only if both passes draw the same dropout masks:
    every pass over a micro-batch therefore starts from the state that the first one started from. First passes over
    the rows that are trained on draw from the process's own generators, as plain SFT does; passes over other rows have
    states of their own and leave these generators alone, so that a defense of strength zero trains to SFT's bits.

    Args:
        device: Device of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._states: dict[Hashable, RandomState] = {}
        self._present: RandomState | None = None

    @contextmanager
    def shared(self, rows: Hashable, seed: int | None = None) -> Iterator[None]:
        """Inside the block a pass over a micro-batch draws what every other pass over it draws.

        Args:
            rows: What tells the micro-batch from others.
            seed: Where its state comes from; None for the process's own generators.
        """
        own = seed is None and rows not in self._states
        with nullcontext() if own else self._forked():
            if rows not in self._states:
                if seed is not None:
                    self._seed(seed)
                self._states[rows] = self._get()
            elif not own:
                self._set(self._states[rows])
            before, self._present = self._present, self._states[rows]
            try:
                yield
            finally:
                self._present = before

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside a pass: draw once more what the pass drew, and leave no trace."""
        with self._forked():
            if self._present is not None:
                self._set(self._present)
            yield

    def _forked(self) -> Any:
        if self._device.type == "cpu":
            return torch.random.fork_rng(devices=[])
        return torch.random.fork_rng(devices=[self._device], device_type=self._device.type)

    def _get(self) -> RandomState:
        if self._device.type == "cpu":
            return RandomState(torch.get_rng_state(), None)
        return RandomState(torch.get_rng_state(), self._module().get_rng_state(self._device))

    def _set(self, state: RandomState) -> None:
        torch.set_rng_state(state.cpu)
        if state.device is not None:
            self._module().set_rng_state(state.device, self._device)

    def _seed(self, seed: int) -> None:
        # Not torch.manual_seed, which also seeds devices whose state `_forked` does not put back.
        torch.default_generator.manual_seed(seed)
        if self._device.type != "cpu":
            with torch.get_device_module(self._device.type).device(self._device):
                self._module().manual_seed(seed)

    def _module(self) -> Any:
        return torch.get_device_module(self._device.type)
