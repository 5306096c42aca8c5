"""What DeepSpeed settings mean for a defense: taken over, set right, or refused."""

import importlib
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers.integrations.deepspeed import propagate_args_to_deepspeed
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from mithridate.errors import CheckpointError
from mithridate.training.fsdp_host import require_same_kind
from mithridate.training.host import require
from mithridate.training.processes import launched_processes

OPTIMIZER_FILES = "global_step*/*zero_pp_rank_*_optim_states.pt"
"""Files of DeepSpeed inside a checkpoint, one for each process."""

SECTIONS = {
    "bf16",
    "checkpoint",
    "fp16",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "steps_per_print",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
}
"""What a DeepSpeed config may hold; other sections change forward passes, gradients or the optimizer's step."""

ZERO_SETTINGS = {
    "allgather_bucket_size",
    "allgather_partitions",
    "contiguous_gradients",
    "ignore_unused_parameters",
    "offload_optimizer",
    "offload_param",
    "overlap_comm",
    "reduce_bucket_size",
    "reduce_scatter",
    "round_robin_gradients",
    "stage",
}
"""What its `zero_optimization` may hold, beside settings of stage 3, which stages 1 and 2 do not read."""

BY_ELEMENT = {"adamw_torch", "adamw_torch_fused", "rmsprop", "sgd"}
"""Optimizers of transformers that treat each number alone, so that it does not matter which tensor it lies in."""


def zero_on_cpus(trainer: Any) -> None:
    """Split optimizer state over processes on CPUs too, where DeepSpeed is asked for.

    Accelerate 1.15 hands the DeepSpeed plugin to its state for accelerators only (`AcceleratorState.__init__`): on CPUs
    it would train with DDP and say nothing.
    """
    host, plugin = trainer.accelerator, trainer.args.deepspeed_plugin
    if plugin is None or host.state.distributed_type != DistributedType.MULTI_CPU:
        return
    # DeepSpeed would compile an exchange over shared memory before the first step; gloo needs no compiler.
    importlib.import_module("deepspeed.ops").__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed rounds by itself, without autocast.
    host.native_amp, host.state._mixed_precision = False, "no"
    # Both, since a new AcceleratorState takes over what the PartialState says.
    host.state.distributed_type = PartialState().distributed_type = DistributedType.DEEPSPEED
    plugin.set_mixed_precision(trainer.args.mixed_precision)
    plugin.select(_from_accelerator_state=True)
    host.state.deepspeed_plugins = plugin
    trainer.is_deepspeed_enabled = True
    if trainer.args.hf_deepspeed_config is None:
        propagate_args_to_deepspeed(host, trainer.args)


def refuse_zero(args: SFTConfig) -> None:
    """Refuse DeepSpeed settings that a defense cannot train under, before a model is loaded.

    Args:
        args: The settings of TRL's trainer.

    Raises:
        UsageError: Naming the setting.
    """
    if args.deepspeed_plugin is None:
        return
    config, optimizer = args.deepspeed_plugin.deepspeed_config, OptimizerNames(args.optim).value
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage")
    unknown = sorted(set(config) - SECTIONS)
    unknown += sorted(f"zero_optimization.{name}" for name in set(zero) - ZERO_SETTINGS if "stage3" not in name)
    require(
        {
            "DeepSpeed's ZeRO-3 (between passes it leaves an empty tensor in the place of each weight, so that weights "
            "cannot be displaced, copied or restored; use FSDP2, or ZeRO-2)": stage == 3,
            f"DeepSpeed's ZeRO stage {stage} (use 1 or 2, or DDP)": stage not in (1, 2, 3),
            "DeepSpeed's offload_optimizer or offload_param (never tested; use FSDP2 over more processes)": (
                _offloads(zero)
            ),
            f"'{', '.join(unknown)}' in the DeepSpeed config (never tested; set optimizer and schedule in the "
            "SFTConfig, and leave other settings out)": unknown,
            f"optim='{optimizer}' under DeepSpeed (the matrices of a block are one flat tensor there; use one of "
            f"{', '.join(sorted(BY_ELEMENT))})": optimizer not in BY_ELEMENT,
        }
    )


def settle_zero(trainer: Any) -> None:
    """Refuse what a defense cannot train under with DeepSpeed, and clip gradients as one process would.

    Raises:
        UsageError: Naming it.
    """
    host, plugin = trainer.accelerator, trainer.args.deepspeed_plugin
    if plugin is None:
        return
    refuse_zero(trainer.args)
    require(
        {
            "DeepSpeed settings on a CPU without a launcher (accelerate would train without DeepSpeed and say nothing; "
            "start it with torchrun or accelerate launch)": host.distributed_type != DistributedType.DEEPSPEED,
            "DeepSpeed on CPUs without use_cpu=True (accelerate would let every process train on all rows)": (
                host.num_processes != launched_processes()
            ),
            "DeepSpeed on CPUs where a GPU is visible (it would use the GPU; set CUDA_VISIBLE_DEVICES= to hide it)": (
                host.device.type == "cpu" and torch.cuda.is_available()
            ),
            "a quantized model under DeepSpeed (never tested; use DDP)": getattr(trainer.model, "is_quantized", False),
        }
    )
    # Without it transformers reports the gradient's norm, and DeepSpeed does not clip.
    plugin.deepspeed_config.setdefault("gradient_clipping", trainer.args.max_grad_norm)


def _offloads(zero: dict[str, Any]) -> bool:
    sections = (zero.get(name) or {} for name in ("offload_optimizer", "offload_param"))
    return any(section.get("device", "none") not in ("none", None) for section in sections)


def require_same_engine(checkpoint: Path, trainer: Any) -> None:
    """Refuse a checkpoint of another engine, or one that this number of processes cannot share.

    Raises:
        CheckpointError: If it is one.
    """
    require_same_kind(checkpoint, trainer.is_fsdp_enabled)
    written = len(list(checkpoint.glob(OPTIMIZER_FILES)))
    now = trainer.accelerator.num_processes if trainer.is_deepspeed_enabled else 0
    if written and not now:
        raise CheckpointError(
            f"{checkpoint} was written under DeepSpeed; resume it under DeepSpeed with {written} processes"
        )
    if now and not written:
        raise CheckpointError(f"{checkpoint} was written without DeepSpeed; resume it without, or start anew under it")
    # Each process wrote its part of the optimizer's state, and DeepSpeed does not cut the parts anew.
    if written != now:
        raise CheckpointError(
            f"{checkpoint} was written by {written} processes under DeepSpeed, and {now} cannot share it; "
            f"resume it with {written}"
        )
