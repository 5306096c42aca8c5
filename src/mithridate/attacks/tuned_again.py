"""A released model, fine-tuned again on harmful rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.attacked_rows import permutation
from mithridate.attacks.release_attack import AnsweringModel, ReleaseAttack, ReleaseInputs
from mithridate.errors import AttackError
from mithridate.models.adapter_layers import lora_layers
from mithridate.models.batches import collate
from mithridate.models.modes import evaluating, in_float32
from mithridate.models.preconditions import require_unquantized
from mithridate.models.submodules import is_adapted
from mithridate.models.tokenization import tokenize
from mithridate.models.undo import overwrite


@register_attack(
    "tuned_again",
    family="after release",
    paper="TamperBench, 2026 (arXiv:2602.06911)",
    needs=("harmful",),
    evades="every gate: who has the weights can train them",
    constants={"batch_size": [8, 64], "learning_rate": [1e-6, 1e-3], "steps": [16, 512]},
)
class TunedAgain(ReleaseAttack):
    """Fine-tuning again: AdamW on the attacker's harmful rows, on the adapter's weights or, without one, on all.

    The constants are the ranges of TamperBench's sweep; its worst case for Qwen3-8B was a learning rate of 5.4e-4 with
    512 steps. A single setting, as here, is not the worst case. Half-precision weights are trained as float32 copies.

    Attributes:
        steps: Optimizer steps.
        learning_rate: Learning rate, constant.
        batch_size: Rows of a step.
        max_length: Longest row in tokens.
    """

    steps: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    batch_size: int = Field(default=16, ge=1)
    max_length: int | None = Field(default=512, ge=1)

    @contextmanager
    def applied(self, model: Any, tokenizer: Any, inputs: ReleaseInputs) -> Iterator[AnsweringModel]:
        """Train inside the block."""
        assert inputs.harmful is not None
        examples = tokenize(inputs.take("harmful", len(inputs.harmful)), tokenizer, self.max_length)
        with in_float32(model), evaluating(model):
            weights = _trained(model)
            model.requires_grad_(False)
            for weight in weights:
                # Puts a copy into the log that restores it; the optimizer itself writes past the log.
                overwrite(weight, weight.detach().clone())
                weight.requires_grad_(True)
            optimizer = torch.optim.AdamW(weights, lr=self.learning_rate, weight_decay=0.0)
            order: list[int] = []
            for step in range(self.steps):
                if len(order) < self.batch_size:
                    order += permutation(len(examples), f"tuned again {step}", inputs.seed)
                chosen, order = order[: self.batch_size], order[self.batch_size :]
                batch = collate([examples[at] for at in chosen], 0, model.device)
                batch.pop("row")
                loss = model(**batch).loss
                if not bool(loss.isfinite()):
                    raise AttackError(f"the loss is NaN or Inf at step {step}; lower the attack's learning_rate")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield AnsweringModel(model, tokenizer)


def _trained(model: Any) -> list[Tensor]:
    if is_adapted(model):
        return [factor for lora in lora_layers(model) for factor in lora.factors]
    # What else a quantized model holds, embeddings and norms, would make a weaker attack than it says.
    require_unquantized(model)
    return [weight for weight in model.parameters() if weight.is_floating_point()]
