"""The processes that share an optimizer step."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from mithridate.errors import UsageError
from mithridate.training.vector_terms import pieces_of

MESSAGE = 2**28
"""Bytes that go in one message, or somewhat more: an adapter is smaller."""


@dataclass(frozen=True)
class Processes:
    """This process and those it trains with; with one process nothing is communicated.

    Attributes:
        rank: Number of this process.
        count: Number of processes.
        device: Where sums over processes are made.
    """

    rank: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    def gather(self, value: Any) -> list[Any]:
        """Return what every process has, in the order of the processes."""
        everywhere = [value]
        if self.count > 1:
            everywhere = [None] * self.count
            distributed.all_gather_object(everywhere, value)
        return everywhere

    def sum(self, mine: Tensor) -> Tensor:
        """Add up every process's tensor in place, and return it."""
        if self.count > 1:
            distributed.all_reduce(mine)
        return mine

    def sum_all(self, tensors: Sequence[Tensor]) -> None:
        """Sum lists of tensors over processes in place, in few messages."""
        if self.count == 1:
            return
        # An adapter has hundreds of small tensors, and each reduction waits for the slowest process: they go in one
        # message. One for all weights of a model would be as large as they are.
        for piece in pieces_of(tensors, MESSAGE):
            some = list(tensors[piece])
            flat = torch.cat([tensor.reshape(-1) for tensor in some])
            distributed.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in some])
            torch._foreach_copy_(some, [part.view_as(t) for part, t in zip(parts, some, strict=True)])

    def total(self, value: float) -> float:
        """Return the sum of every process's number."""
        return self._reduced(value, distributed.ReduceOp.SUM) if self.count > 1 else value

    def largest(self, value: float) -> float:
        """Return the largest of every process's number."""
        return self._reduced(value, distributed.ReduceOp.MAX) if self.count > 1 else value

    def _reduced(self, value: float, operation: Any) -> float:
        # Counts of tokens stay exact: float32 holds whole numbers up to 16.8 million only.
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor, op=operation)
        return float(tensor)


def running_processes(device: torch.device | str) -> Processes:
    """Return the processes that have been set up to share work; this one alone where none were.

    Args:
        device: Where sums over processes are made.
    """
    if not distributed.is_initialized():
        return Processes(device=device)
    return Processes(distributed.get_rank(), distributed.get_world_size(), device)


def launched_processes() -> int:
    """Return how many processes a launcher, such as torchrun or accelerate, started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_launcher(work: str, instead: str = "") -> None:
    """Refuse work that one process does alone.

    Under torchrun or accelerate each process would do all of it, in the same folder.

    Args:
        work: What it is, with its verb: "a recipe runs".
        instead: What to do instead of starting it without a launcher.

    Raises:
        UsageError: If a launcher started several processes.
    """
    if launched_processes() > 1:
        raise UsageError(
            f"{work} in one process, but WORLD_SIZE is above 1; start it without a launcher{instead and f', {instead}'}"
        )
