"""What TRL, transformers and accelerate do around a training that a defense must know of, refuse or undo."""

import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import ParallelismConfig
from accelerate.utils import DistributedType
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.training_args import OptimizerNames
from transformers.utils import strtobool
from trl import SFTConfig

from mithridate.errors import UsageError
from mithridate.models.batches import STAND_IN, Batch
from mithridate.models.fused_head import causal_of

ROW = "mithridate_row"
"""Column with the position of each training row."""


def refuse_settings(args: SFTConfig, columns: Sequence[str]) -> None:
    """Refuse settings under which the step's gradient would not be the defense's formula, before a model is loaded.

    Args:
        args: The settings of TRL's trainer.
        columns: Columns of the training rows.

    Raises:
        UsageError: Naming the setting.
    """
    optimizer = OptimizerNames(args.optim).value
    require(
        {
            **_parts_of_rows(args),
            "packing=True (a step would have as many rows as happen to fit, and defenses weigh the rows of a step "
            "against each other; padding_free=True computes no padding either)": args.packing,
            "fp16=True (its loss scaling changes gradients; use bf16=True)": args.fp16,
            "label_smoothing_factor": args.label_smoothing_factor,
            "loss_type other than 'nll'": args.loss_type != "nll",
            "neftune_noise_alpha": args.neftune_noise_alpha,
            # transformers would start over inside train(), where streams and memory are not set back.
            "auto_find_batch_size=True": args.auto_find_batch_size,
            "load_best_model_at_end=True (the last weights count)": args.load_best_model_at_end,
            "truncation_mode='keep_end' (answers follow prompts)": args.truncation_mode != "keep_start",
            "completion_only_loss=False (prompts are never trained)": args.completion_only_loss is False,
            "rows of whole conversations without assistant_only_loss=True (prompts are never trained)": (
                "messages" in columns and not args.assistant_only_loss
            ),
            f"optim='{optimizer}' (it updates weights during the backward pass)": (
                optimizer in ("lomo", "adalomo") or "layerwise" in optimizer
            ),
        }
    )


def _parts_of_rows(args: SFTConfig) -> dict[str, bool]:
    """Ways to split a row or a layer over processes; accelerate's config file says so in the environment."""
    asked = strtobool(os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false"))
    parallel = args.parallelism_config or (ParallelismConfig() if asked else None)
    reason = "each process would have a part of a row's tokens, and defenses weigh rows by the likelihood of the whole"
    return {
        f"context parallelism, cp_size above 1 ({reason}; set gradient_checkpointing for long rows)": (
            parallel is not None and parallel.cp_enabled
        ),
        f"sequence parallelism, sp_size above 1 ({reason}; set gradient_checkpointing for long rows)": (
            parallel is not None and parallel.sp_enabled
        ),
        "tensor parallelism, tp_size above 1 (each process would have a part of a matrix; use FSDP2)": (
            parallel is not None and parallel.tp_enabled
        ),
    }


def padded_by_the_host(args: SFTConfig | None) -> tuple[SFTConfig | None, bool]:
    """Return the settings with which TRL collates rows side by side, and whether passes are to be free of padding.

    TRL would lay rows end to end before they are told apart; here each forward pass does it, and its results are rows.

    Args:
        args: The settings of TRL's trainer; they stay as they are.
    """
    if not isinstance(args, SFTConfig) or not args.padding_free:
        return args, False
    padded = copy.copy(args)
    padded.padding_free = False
    return padded, True


def refuse_host(trainer: Any) -> None:
    """Refuse what TRL's trainer has set up and a defense cannot train under.

    Raises:
        UsageError: Naming it.
    """
    kind = trainer.accelerator.distributed_type
    require(
        {
            "compute_loss_func": trainer.compute_loss_func is not None,
            "a router auxiliary loss (set router_aux_loss_coef=0)": trainer.aux_loss_enabled,
            "image data": trainer._is_vision_dataset,
            f"the launch type {kind.value} (use FSDP2, DeepSpeed or DDP)": kind
            not in (
                DistributedType.NO,
                DistributedType.MULTI_CPU,
                DistributedType.MULTI_GPU,
                DistributedType.FSDP,
                DistributedType.DEEPSPEED,
            ),
        }
    )


def refuse_adapted_head(model: Any) -> None:
    """Refuse an adapter on the output head, which TRL's trainer refuses whatever loss it would compute.

    Raises:
        UsageError: If the model comes with one.
    """
    if isinstance(model, PeftModel) and isinstance(causal_of(model).get_output_embeddings(), BaseTunerLayer):
        raise UsageError(
            "the adapter is on the output head too, and TRL trains no such adapter; merge it into the model first "
            "(model = model.merge_and_unload()), then train all weights or a new adapter without the head"
        )


def require(absent: dict[str, Any]) -> None:
    """Refuse whatever is there.

    Raises:
        UsageError: Naming the first setting that is.
    """
    for setting, present in absent.items():
        if present:
            raise UsageError(f"DefendedTrainer cannot be combined with {setting}")


def recompute_soundly(args: SFTConfig) -> None:
    """Under reentrant checkpointing activations cannot be held or changed; the other kind computes the same bits."""
    asked = args.activation_checkpointing_kwargs or {}
    # With it the forward pass keeps no graph, and hooks see activations that nothing is differentiated by.
    if args.activation_checkpointing and asked.get("use_reentrant"):
        warnings.warn(
            "activation checkpointing is done with use_reentrant=False: defenses read and change activations",
            UserWarning,
            stacklevel=3,
        )
        args.activation_checkpointing_kwargs = {**asked, "use_reentrant": False}
        args.gradient_checkpointing_kwargs = args.activation_checkpointing_kwargs


@contextmanager
def forwards_kept(model: nn.Module) -> Iterator[None]:
    """Training leaves no forward on the model that is bound to it, so that a copy runs its own weights.

    Accelerate puts its mixed precision around ``model.forward`` and leaves it there.
    """
    # With PEFT the wrapper and the model inside it, else one and the same.
    modules = {id(module): module for module in (model, causal_of(model))}.values()
    before = [(module, module.__dict__.get("forward")) for module in modules]
    try:
        yield
    finally:
        for module, forward in before:
            module.__dict__.pop("forward", None)
            module.__dict__.pop("_original_forward", None)
            if forward is not None:
                module.forward = forward


def without_repetitions(trainer: Any, batch: Batch) -> Batch:
    """Return a micro-batch without the rows that only fill the last batch of several processes up.

    One process trains the last batch on fewer rows, and so do several. A process that is left without any gets one row
    that does not count.

    Args:
        trainer: The host, inside a training step.
        batch: This process's micro-batch.
    """
    host, per_device = trainer.accelerator, trainer.args.per_device_train_batch_size
    # Not accelerate's own `remainder`, which it does not know in the epoch in which a training is resumed.
    left = len(trainer.train_dataset) % (per_device * host.num_processes)
    full = host.num_processes == 1 or left == 0 or trainer.args.dataloader_drop_last
    # A step's micro-batches are fetched before the first of them is trained on, so that the data is at its end for all
    # of them; the last batch is that at which gradients are synchronized.
    if full or not (host.gradient_state.end_of_dataloader and host.gradient_state.sync_gradients):
        return batch
    # The sampler deals rows to processes in blocks, so the last ones of the last batch are repetitions.
    own = max(0, min(per_device, left - host.process_index * per_device))
    kept = {name: tensor[: max(own, 1)] for name, tensor in batch.items()}
    return kept if own else kept | {STAND_IN: torch.ones(1, dtype=torch.bool)}


class KeepingRow:
    """A collator that keeps the position of each row beside what the inner collator makes.

    Args:
        inner: TRL's collator.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """One batch, with the positions as ``row``, (rows,)."""
        rows = [example.pop(ROW) for example in examples if ROW in example]
        batch: dict[str, Any] = self.inner(examples)
        if rows:
            batch["row"] = torch.tensor(rows)
        return batch
