"""Optimizer state that DeepSpeed's ZeRO-1 and ZeRO-2 split over processes; weights are whole in each.

Three facts of DeepSpeed 0.19 rule this file. Its hooks reduce and remove a parameter's gradient in every backward pass,
and a defense makes several of them for one step: all are made inside `coalesce_grad_reduction`, which reduces once at
its end. Its optimizer steps along one flat tensor for each group of parameters, so that a parameter is left alone only
with its whole group. And it computes each step from copies of the weights, which do not follow a change of the weights.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mithridate.errors import DefenseError, UsageError
from mithridate.models.decoder import layer_of
from mithridate.training.gradient import Gradient
from mithridate.training.trainable_weights import Weights


def split_by_block(optimizer: Optimizer, weights: Weights) -> Optimizer:
    """Give each decoder block parameter groups of its own, since ZeRO can leave only whole groups alone.

    Args:
        optimizer: The optimizer, before DeepSpeed wraps it.
        weights: The weights it moves.

    Returns:
        The same optimizer.
    """
    layers = {id(p): layer_of(name) for name, p in zip(weights.names, weights.parameters, strict=True)}
    groups = []
    for group in optimizer.param_groups:
        blocks: dict[str | None, list[Tensor]] = {}
        for parameter in group["params"]:
            blocks.setdefault(layers[id(parameter)], []).append(parameter)
        groups += [group | {"params": parameters} for parameters in blocks.values()]
    optimizer.param_groups[:] = groups
    return optimizer


@contextmanager
def stepping(zero: "ZeroEngine | None", weights: Weights) -> Iterator[Callable[[Gradient], None]]:
    """Inside the block a step's passes are made.

    Args:
        zero: DeepSpeed's engine, which steps at the end of the block; None where the host steps by itself.
        weights: The weights.

    Yields:
        A function that takes the gradient to step along.
    """
    if zero is None:
        yield weights.set_grad
        return
    with zero.step(weights) as follow:
        yield follow


@contextmanager
def trained_once(trainer: Any) -> Iterator[None]:
    """After the block the trainer's model is as it would be without DeepSpeed, also where training failed.

    Args:
        trainer: The host.

    Raises:
        UsageError: If its engine has trained before.
    """
    if trainer._zero is not None:
        raise UsageError(
            "under DeepSpeed a trainer trains once (transformers would train past its engine from then on); make a new "
            "DefendedTrainer"
        )
    try:
        yield
    finally:
        if trainer._zero is not None:
            trainer._zero.release()


class ZeroEngine:
    """A DeepSpeed engine that takes one optimizer step for all the backward passes of a defense.

    Args:
        engine: DeepSpeed's engine.

    Raises:
        UsageError: If this version of DeepSpeed reduces gradients in every backward pass.
    """

    def __init__(self, engine: Any) -> None:
        if not hasattr(engine, "coalesce_grad_reduction"):
            raise UsageError(
                "this version of DeepSpeed reduces gradients in every backward pass; install deepspeed>=0.19.8"
            )
        self._engine = engine
        self._zero = engine.optimizer
        self._held: set[int] = set()
        self._hook = self._zero.optimizer.register_step_pre_hook(self._hold)

    @contextmanager
    def step(self, weights: Weights) -> Iterator[Callable[[Gradient], None]]:
        """Inside the block backward passes stay local; after it one optimizer step is taken.

        Args:
            weights: The weights.

        Yields:
            A function that takes the gradient to step along, the same in every process.
        """
        with self._engine.coalesce_grad_reduction():
            try:
                yield lambda gradient: self._set(weights, gradient)
            except BaseException:
                # What is left in .grad would be reduced now, and other processes may not be there to take part.
                weights.clear_grad()
                raise
        self._adopt()
        # One step is one boundary, whatever number of micro-batches the config names.
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()

    def release(self) -> None:
        """Take DeepSpeed's hooks off the model, which would reduce the gradients of later backward passes."""
        self._hook.remove()
        self._engine.module_forward_pre_hook.remove()
        self._engine.module_forward_post_hook.remove()
        self._engine.destroy()

    def _set(self, weights: Weights, gradient: Gradient) -> None:
        # DeepSpeed averages over the processes, which all have the same vector.
        weights.set_grad(gradient)
        self._held = self._frozen_groups(weights, gradient.frozen)

    @torch.no_grad()
    def _adopt(self) -> None:
        """Copy weights that a defense has set since the last step to the optimizer's own copies of them."""
        for index, copy in enumerate(self._zero.single_partition_of_fp32_groups):
            own = self._zero.get_bit16_param_group(index)[0]
            same = own == copy.to(own.dtype)
            # Only those: copies of half-precision weights hold more digits than the weights.
            if not same.all():
                copy.copy_(torch.where(same, copy, own.to(copy.dtype)))

    def _frozen_groups(self, weights: Weights, frozen: Sequence[bool] | None) -> set[int]:
        """The optimizer's flat tensors whose weights are all to be left alone."""
        if frozen is None:
            return set()
        left = {id(p) for p, fixed in zip(weights.parameters, frozen, strict=True) if fixed}
        held = set()
        for members, copy in zip(self._zero.bit16_groups, self._zero.single_partition_of_fp32_groups, strict=True):
            alone = {id(parameter) in left for parameter in members}
            if len(alone) > 1:
                raise DefenseError(
                    "under DeepSpeed only whole decoder blocks can be left alone; freeze them with step.training_only"
                )
            if alone == {True}:
                held.add(id(copy))
        return held

    def _hold(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for copy in group["params"]:
                # Zero gradients would not do: momentum and weight decay still move a parameter.
                if id(copy) in self._held:
                    copy.grad = None
