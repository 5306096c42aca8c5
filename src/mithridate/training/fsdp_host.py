"""What accelerate's FSDP settings mean for a defense: taken over, set right, or refused."""

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy
from transformers.utils import strtobool

from mithridate.errors import CheckpointError
from mithridate.models.modes import is_half
from mithridate.training.host import require

SAVED = "pytorch_model_fsdp"
"""What the names of accelerate's files and folders with split weights start with."""


def shard_on_cpus(trainer: Any) -> None:
    """Split weights over processes on CPUs too, where FSDP is asked for.

    Accelerate 1.15 hands the FSDP plugin to its state for accelerators only (`AcceleratorState.__init__`): on CPUs it
    would train with DDP and say nothing. Its plugin and its `prepare` do work there once the state names them.
    """
    state = trainer.accelerator.state
    asked = trainer.args.fsdp_plugin_args is not None or strtobool(os.environ.get("ACCELERATE_USE_FSDP", "false"))
    if asked and state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**(trainer.args.fsdp_plugin_args or {}))
        # Both, since a new AcceleratorState takes over what the PartialState says.
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        trainer.is_fsdp_enabled = True


def settle_sharding(trainer: Any) -> None:
    """Refuse FSDP settings that a defense cannot train under, and compute as one process would.

    Raises:
        UsageError: Naming the setting.
    """
    if trainer.accelerator.distributed_type != DistributedType.FSDP:
        return
    plugin = trainer.accelerator.state.fsdp_plugin
    parallel = trainer.accelerator.parallelism_config
    require(
        {
            "FSDP version 1 (its parameters are views of one flat tensor; set fsdp_version: 2)": plugin.fsdp_version
            != 2,
            "FSDP's offload_params (weights are displaced on the device that computes; shard over more of them)": (
                isinstance(plugin.cpu_offload, CPUOffloadPolicy)
            ),
            "FSDP's activation_checkpointing (it hides the decoder blocks; set gradient_checkpointing in the "
            "SFTConfig)": plugin.activation_checkpointing,
            "FSDP's ignored_modules (all weights are split alike)": plugin.ignored_modules is not None,
            "tensor, context or sequence parallelism, or sharding within groups of processes (FSDP2 over all "
            "processes only)": parallel is not None and parallel.total_size > 1,
            "a quantized model under FSDP (never tested; use DDP)": getattr(trainer.model, "is_quantized", False),
        }
    )
    half = any(is_half(parameter) for parameter in trainer.model.parameters())
    # Autocast alone rounds, as on one process: FSDP2's own policy would also round displaced weights, and in blocks of
    # `precise`. Weights stored in half precision are whole in float32, layer by layer, and stored as they were.
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=torch.float32 if half else None, cast_forward_inputs=False
    )


def require_same_kind(checkpoint: Path, sharded: bool) -> None:
    """Refuse a checkpoint of split weights for a training that holds them whole, and the other way round.

    Raises:
        CheckpointError: If it is of the other kind.
    """
    split = any(path.name.startswith(SAVED) for path in checkpoint.iterdir())
    if split and not sharded:
        raise CheckpointError(
            f"{checkpoint} was written under FSDP2; resume it under FSDP2, with any number of processes"
        )
    if sharded and not split:
        raise CheckpointError(f"{checkpoint} was written without FSDP2; resume it without, or start anew under FSDP2")


def save_whole(trainer: Any, folder: Path) -> None:
    """Save a model as it is served, also where it is split over processes; all of them must call it then.

    Args:
        trainer: The trainer.
        folder: Where to.
    """
    split = trainer.accelerator.distributed_type == DistributedType.FSDP
    weights = trainer.accelerator.get_state_dict(trainer.model) if split else None
    if trainer.accelerator.is_main_process:
        trainer.model.save_pretrained(folder, state_dict=weights)
