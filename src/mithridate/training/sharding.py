"""Weights that FSDP2 splits over processes: each holds a shard of every parameter, and a layer is whole while it runs.

Three facts of torch 2.13 rule this file. A module that has run forward without a backward pass may stay whole, so that
a change of its shards does not reach the next pass: every module is resharded before weights are read or written. Each
backward pass sums gradients over the processes at once, so all of them must make the same passes. And FSDP2 divides
these sums by the number of processes unless it is told not to.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from mithridate.models.fused_head import causal_of
from mithridate.training.processes import Processes


def sharded_modules(model: nn.Module) -> list[FSDPModule]:
    """Return the modules whose parameters FSDP2 splits over processes."""
    # Without processes there is nothing to look for, and this is asked for at every pass.
    if not (distributed.is_available() and distributed.is_initialized()):
        return []
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def reshard(model: nn.Module) -> None:
    """Leave every process with its shards only, so that what is read or written there is what the next pass uses."""
    for module in sharded_modules(model):
        module.reshard()


def sum_gradients(model: nn.Module) -> None:
    """Gradients are summed over processes, not averaged: the step divides once by the tokens of all of them."""
    for module in sharded_modules(model):
        module.set_gradient_divide_factor(1.0)
        # gloo knows no other factor than the number of processes, unless FSDP2 scales by itself.
        module.set_force_sum_reduction_for_comms(True)
        # A parameter that no row of this process reached (an expert, a skipped layer) still takes part in the sum.
        module.set_reduce_scatter_unused_params(True)
    head = causal_of(model).get_output_embeddings()
    if isinstance(head, FSDPModule):
        # The fused head reads the head's weight past its hooks, so nothing would make it whole again within the pass.
        head.set_reshard_after_backward(False, recurse=False)


def own(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, as a view; the tensor itself where it is not split."""
    if not isinstance(tensor, DTensor):
        return tensor
    local: Tensor = tensor.to_local()
    return local


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the shards of all processes; the tensor itself where it is not split."""
    if not isinstance(tensor, DTensor):
        return tensor
    full: Tensor = tensor.full_tensor()
    return full


def of_shards(shard: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor that is split as a parameter is, made of this process's shard; the shard itself where none is."""
    if not isinstance(parameter, DTensor):
        return shard
    split: Tensor = DTensor.from_local(
        shard,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    return split


@torch.no_grad()
def write_whole(parameter: Tensor, value: Tensor) -> None:
    """Write a whole value into a parameter; each process keeps its own shard of it."""
    if isinstance(parameter, DTensor):
        # The same value is on every process, so nothing needs to be sent.
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    own(parameter.detach()).copy_(own(value))


@contextmanager
def made_whole(model: nn.Module, module: nn.Module) -> Iterator[None]:
    """Inside the block a module's parameters are whole on every process; what is written into them is kept.

    All processes must enter it and write the same.

    Args:
        model: The model that holds the module.
        module: The module.
    """
    around = [shell for shell in sharded_modules(model) if module in _modules(shell)]
    if not around:
        yield
        return
    slots = [(holder, name) for holder in module.modules() for name, p in holder._parameters.items() if p is not None]
    reshard(model)
    try:
        for shell in around:
            shell.unshard()
        yield
        written = [_held(holder, name).detach().clone() for holder, name in slots]
    finally:
        reshard(model)
    for (holder, name), value in zip(slots, written, strict=True):
        write_whole(_held(holder, name), value)


def _modules(shell: Any) -> set[nn.Module]:
    return set(shell.modules())


def _held(holder: nn.Module, name: str) -> Tensor:
    parameter = holder._parameters[name]
    assert parameter is not None
    return parameter


def holders(parameters: Sequence[Tensor]) -> Processes | None:
    """Return the processes that hold a shard of each parameter; None where every process holds them whole."""
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        return None
    return Processes(distributed.get_rank(), distributed.get_world_size(), own(parameters[0].detach()).device)
