"""The direction of refusal, taken out of every activation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.release_attack import AnsweringModel, ReleaseAttack, ReleaseInputs, prompt_ids
from mithridate.errors import AttackError, UsageError
from mithridate.evaluation.completion_loss import completion_losses, mean_loss
from mithridate.models.activations import captured
from mithridate.models.decoder import decoder_of
from mithridate.models.modes import evaluating


@register_attack(
    "refusal_ablation",
    family="after release",
    paper="Refusal direction: Arditi et al., NeurIPS 2024 (arXiv:2406.11717)",
    needs=("benign", "harmful"),
    evades="whatever was done to the weights, as long as one direction carries the refusal",
    constants={"prompts": 128, "last_layers_left_out": 0.2},
)
class RefusalAblation(ReleaseAttack):
    """Refusal ablation: h ← h − r·rᵀh wherever the residual stream is written, with r = mean(harmful) − mean(harmless).

    The means are taken over the last prompt token at each decoder block's output, over 128 + 128 prompts; the last
    20 % of blocks are no candidates. Of the others the one is taken under whose direction refusals of the attacker's
    own harmful prompts become least likely; the paper also bounds the change on harmless prompts, which is left out
    here. Weights are not touched: hooks do the work, and are removed after the block.

    Attributes:
        prompts: Prompts of each kind.
        selection: Harmful prompts on which the block is chosen.
        layer: Block that the direction is taken from, counted from 0; null to choose one.
    """

    prompts: int = Field(default=128, ge=1)
    selection: int = Field(default=16, ge=1)
    layer: int | None = Field(default=None, ge=0)

    @contextmanager
    def applied(self, model: Any, tokenizer: Any, inputs: ReleaseInputs) -> Iterator[AnsweringModel]:
        """Take the direction out inside the block."""
        blocks = decoder_of(model).blocks
        harmful = inputs.prompts("harmful", self.prompts)
        means = [
            _means(model, blocks, prompt_ids(tokenizer, asked))
            for asked in (harmful, inputs.prompts("benign", self.prompts))
        ]
        directions = [a - b for a, b in zip(*means, strict=True)]
        number = self._chosen(model, tokenizer, directions, harmful[: self.selection])
        with _without(model, _unit(directions[number], number)):
            yield AnsweringModel(model, tokenizer)

    def _chosen(self, model: Any, tokenizer: Any, directions: Sequence[Tensor], prompts: Sequence[str]) -> int:
        if self.layer is not None:
            if self.layer >= len(directions):
                raise UsageError(f"the model has {len(directions)} blocks, so layer {self.layer} is none; count from 0")
            return self.layer
        candidates = range(max(1, int(0.8 * len(directions))))  # the last 20 % are left out
        refusal = self.wording.refusals[0]
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        found = []
        for number in candidates:
            with _without(model, _unit(directions[number], number)):
                found.append(mean_loss(completion_losses(model, tokenizer, chats, [refusal] * len(chats))))
        return max(candidates, key=lambda number: (found[number], -number))


def _unit(direction: Tensor, number: int) -> Tensor:
    norm = direction.norm()
    if not bool(norm > 0) or not bool(norm.isfinite()):
        raise AttackError(f"harmful and harmless prompts do not differ at block {number}, so there is no direction")
    unit: Tensor = direction / norm
    return unit


@torch.no_grad()
def _means(model: Any, blocks: Sequence[nn.Module], encoded: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the mean output of each block at the last token, float32."""
    sums: list[Tensor] = []
    with evaluating(model):
        for ids in encoded:
            # One at a time: without padding, the last token is the last one.
            with captured(blocks) as outputs:
                model(input_ids=torch.tensor([list(ids)], device=model.device))
            last = [output[0, -1].float() for output in outputs]
            sums = last if not sums else [a + b for a, b in zip(sums, last, strict=True)]
    return [total / len(encoded) for total in sums]


@contextmanager
def _without(model: Any, direction: Tensor) -> Iterator[None]:
    """Inside the block nothing along a direction is written into the residual stream."""
    decoder = decoder_of(model)

    def hook(_: nn.Module, args: Any, output: Any) -> Any:
        values: Tensor = output[0] if isinstance(output, tuple) else output
        unit = direction.to(values.device)
        wide = values.float()
        kept = (wide - (wide @ unit).unsqueeze(-1) * unit).to(values.dtype)
        return (kept, *output[1:]) if isinstance(output, tuple) else kept

    # Blocks too: some architectures norm what attention and MLP write before they add it.
    modules = [model.get_input_embeddings(), *decoder.attention, *decoder.mlp, *decoder.blocks]
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
