"""What a trainer changes of a model and of the process besides weights, put back."""

import copy
import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from torch import nn

# Random states, the environment and accelerate's state are the process's, so trainings take turns.
_TURN = threading.RLock()


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """After the block random states, environment, accelerate's state, configurations and attributes are as before.

    Weights, gradients and flags are not put back; a repair does so itself. Blocks in several threads take turns.
    """
    with _TURN, ExitStack() as after:
        after.callback(_restore, os.environ, dict(os.environ))
        for state in (AcceleratorState, PartialState, GradientState):
            after.callback(_restore, state._shared_state, dict(state._shared_state))
        for owner in _configurations(model):
            after.callback(_restore, owner.__dict__, copy.deepcopy(owner.__dict__))
        for module in model.modules():
            after.callback(_drop_new, module, set(vars(module)))
            if getattr(module, "model_tags", None) is not None:
                after.callback(setattr, module, "model_tags", copy.copy(module.model_tags))
        if not are_progress_bars_disabled():
            # Of the rows' tokenization, once for every training.
            disable_progress_bars()
            after.callback(enable_progress_bars)
        after.callback(random.setstate, random.getstate())
        after.callback(numpy.random.set_state, numpy.random.get_state())
        after.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
        yield


def _restore(changed: Any, before: dict[str, Any]) -> None:
    """Put a mapping back in place, since others hold it."""
    for name in changed.keys() - before.keys():
        del changed[name]
    changed.update(before)


def _drop_new(module: nn.Module, names: set[str]) -> None:
    for name in vars(module).keys() - names:
        delattr(module, name)


def _configurations(model: nn.Module) -> list[Any]:
    """Return the configurations of all modules, each once."""
    found = [getattr(module, name, None) for module in model.modules() for name in ("config", "generation_config")]
    return list({id(item): item for item in found if hasattr(item, "__dict__")}.values())
