"""Overwriting weights so that a failure, or the end of a trial, puts back every bit."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


class Log:
    """Copies of what was overwritten; only that is kept, and in main memory, where a second model may find room."""

    def __init__(self) -> None:
        self._saved: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(self, tensor: Tensor) -> None:
        """Copy a tensor, the first time that it is about to be overwritten."""
        # By identity, and only the first time: later values are not those to go back to.
        if id(tensor) not in self._saved:
            self._saved[id(tensor)] = tensor, tensor.detach().to("cpu", copy=True)

    def restore(self) -> None:
        """Put the copies back, the last one first, since tensors may share memory."""
        # In reverse, because views of one storage may have been overwritten one after the other.
        for tensor, saved in reversed(self._saved.values()):
            write(tensor, saved)


# A context variable, so that two repairs in two threads do not log into each other.
_LOGS: ContextVar[tuple[Log, ...]] = ContextVar("logs of the open blocks", default=())


@torch.no_grad()
def write(tensor: Tensor, values: Tensor) -> None:
    """Copy values into a tensor, without a log."""
    tensor.copy_(values)


def overwrite(tensor: Tensor, values: Tensor) -> None:
    """Copy values into a weight; every repair changes weights through here alone.

    Args:
        tensor: The weight.
        values: Its new values, rounded to the weight's precision.
    """
    for log in _LOGS.get():
        log.keep(tensor)
    write(tensor, values)


def about_to_overwrite(tensors: Iterable[Tensor]) -> None:
    """Log weights that somebody else, such as an optimizer, is about to write to.

    Args:
        tensors: The weights.
    """
    for log in _LOGS.get():
        for tensor in tensors:
            log.keep(tensor)


@contextmanager
def undone_on_failure() -> Iterator[None]:
    """If the block raises, every bit of the weights is restored before the exception leaves it."""
    with _logged() as log:
        try:
            yield
        # Ctrl-C included: half a repair is worse than none.
        except BaseException:
            log.restore()
            raise


@contextmanager
def undone() -> Iterator[None]:
    """Whatever happens inside the block, every bit of the weights is restored after it."""
    with _logged() as log:
        try:
            yield
        finally:
            log.restore()


@contextmanager
def _logged() -> Iterator[Log]:
    log = Log()
    token = _LOGS.set((*_LOGS.get(), log))
    try:
        yield log
    finally:
        _LOGS.reset(token)
