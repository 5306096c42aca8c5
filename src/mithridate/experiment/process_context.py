"""How worker processes are started: on Linux without GPUs from a server that has loaded the libraries once."""

import os
import sys
from multiprocessing import get_context
from typing import Any, NamedTuple, Self

import torch

PRELOADED = ["mithridate.experiment.asked_model", "mithridate.experiment.training_stage"]
"""What the server imports once, of which processes are forked; the import takes longer than a small stage."""


def process_context() -> Any:
    """Return the context of `multiprocessing` by which processes are started."""
    # CUDA cannot be used in a process that was forked from one that has looked for GPUs; elsewhere than on Linux,
    # libraries of the system do not survive a fork.
    if torch.cuda.is_available() or sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class Surroundings(NamedTuple):
    """What a server's children do not inherit of the process that asks for them.

    Attributes:
        folder: Its working directory.
        environment: Its environment variables.
    """

    folder: str
    environment: dict[str, str]

    @classmethod
    def here(cls) -> Self:
        """Return those of this process."""
        return cls(os.getcwd(), dict(os.environ))

    def enter(self, **variables: str) -> None:
        """Make them this process's own.

        Args:
            variables: Environment variables beside them.
        """
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment | variables)
