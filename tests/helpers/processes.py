"""Calls functions in other processes, which have loaded the libraries already."""

from collections.abc import Callable
from typing import Any

from mithridate.experiment.process_context import process_context
from mithridate.experiment.shared_work import SharedWork, shared


def together(processes: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a module's function in processes that are one process group, and return what the first of them returns."""
    return shared(SharedWork(_Plain(function), arguments, processes, threads=1), lambda done, total: None)


class _Plain:
    """Takes the function to report progress, and leaves it out."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments[:-1])


def exit_code(function: Callable[..., Any], *arguments: Any) -> int | None:
    """Call a module's function in a process of its own, and return that one's exit code, negative for a signal's."""
    process = process_context().Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode
