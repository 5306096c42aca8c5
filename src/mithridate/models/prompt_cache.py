"""Prompts that two completions share: the second one is scored behind the keys and values of the first one's pass."""

import inspect
import math
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from mithridate.models.batches import STAND_IN, Batch
from mithridate.models.fused_head import causal_of
from mithridate.models.modes import drops
from mithridate.models.tokenization import IGNORED

ATTENTION = ("eager", "sdpa")
"""Implementations of attention whose masks may leave out tokens between the prompt and what follows it."""

COUNTED = ("alibi", "attn_temperature_tuning")
"""Settings of models that take a token's place in the pass for its position: they would count what is left out."""
POINTWISE = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "LN_TUNING", "TRAINABLE_TOKENS")
"""PEFT's adapters that act on each token alone, whatever else is in the row."""


class PromptCache:
    """Keys and values of a batch's prompts, kept without gradient from one pass for a second one.

    Args:
        layers: Layers of the model that keep them.
        other: The prompts with the completions of the second pass, padded on the right.

    Attributes:
        completions: What the second pass is over: the last token of each prompt, whose output predicts the first token
            of the completion, and the completion.
        first: Further inputs of the model in the first pass.
        second: Further inputs of the model in the second pass.
    """

    def __init__(self, layers: int, other: Batch) -> None:
        before = _prompt_tokens(other) - 1
        lengths = other["attention_mask"].sum(dim=1)
        # The last token predicts nothing, but TRL's head takes inputs and labels of one length.
        width = int((lengths - before).max())
        places = before[:, None] + torch.arange(width, device=before.device)
        real = places < lengths[:, None]
        inside = places.clamp(max=other["input_ids"].shape[1] - 1)
        self.completions: Batch = {
            "input_ids": other["input_ids"].gather(1, inside),
            "labels": other["labels"].gather(1, inside).masked_fill(~real, IGNORED),
            "attention_mask": real.to(other["attention_mask"].dtype),
            "row": other["row"],
        }
        longest = int(before.max())
        kept = torch.arange(longest, device=before.device) < before[:, None]
        cache = Cache(layers=[_PromptLayer(longest) for _ in range(layers)])
        self.first: dict[str, Any] = {"past_key_values": cache}
        self.second: dict[str, Any] = {
            "past_key_values": cache,
            "attention_mask": torch.cat([kept, real], dim=1).to(other["attention_mask"].dtype),
            # Of padding too, a position that the model has: learned ones end where rows must.
            "position_ids": inside,
        }


def prompt_cache(model: nn.Module, batch: Batch, other: Batch) -> PromptCache | None:
    """Return a cache with which the second of two passes over the same prompts leaves them out.

    Args:
        model: A causal language model, PEFT or plain.
        batch: Rows of the first pass.
        other: The same prompts with other completions, padded on the right.

    Returns:
        None where the second pass has to be over whole rows: with activations that are computed again in the backward
        pass, with dropout, whose masks belong to whole rows, with rows padded on the left, and with a model whose
        layers do not keep every token's keys and values or cannot be told the positions of tokens.
    """
    causal = causal_of(model)
    names = inspect.signature(type(causal).forward).parameters
    if STAND_IN in batch or not {"past_key_values", "position_ids"} <= names.keys():
        return None
    if drops(model) or _recomputes(model) or _reads_rows(model):
        return None
    config = causal.config.get_text_config(decoder=True)
    if config._attn_implementation not in ATTENTION or any(getattr(config, name, False) for name in COUNTED):
        return None
    prompts = _prompt_tokens(other)
    if not bool(batch["attention_mask"][:, 0].all()) or int(prompts.max()) < 2:
        return None
    layers = DynamicCache(config=config).layers
    longest = max(batch["input_ids"].shape[1], int(prompts.max()) + other["input_ids"].shape[1])
    if not layers or not all(_keeps(layer, longest) for layer in layers) or longest > _most_tokens(config):
        return None
    return PromptCache(len(layers), other)


class _PromptLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values of the prompts: set by the first pass, only read by the second.

    Args:
        longest: Tokens to keep.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()
        self._longest = longest

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return keys and values of all tokens that the pass may look at, each (rows, heads, tokens, features)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            # A view of what the first pass holds for its backward pass anyway.
            self.keys = key_states.detach()[..., : self._longest, :]
            self.values = value_states.detach()[..., : self._longest, :]
            return key_states, value_states
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def _prompt_tokens(batch: Batch) -> Tensor:
    """(rows,) tokens before each completion, of rows padded on the right."""
    return (batch["labels"] != IGNORED).int().argmax(dim=1)


def _keeps(layer: Any, tokens: int) -> bool:
    """Return whether every one of so many tokens is seen by all later ones."""
    if type(layer) is DynamicSlidingWindowLayer:
        return bool(tokens <= layer.sliding_window)
    return type(layer) is DynamicLayer


def _recomputes(model: nn.Module) -> bool:
    """Return whether a pass computes activations again in its backward pass, for which transformers drops the cache."""
    return any(module.training and getattr(module, "gradient_checkpointing", False) for module in model.modules())


def _reads_rows(model: nn.Module) -> bool:
    """Return whether an adapter looks at, or puts something before, more of a row than the token it acts on."""
    if not isinstance(model, PeftModel):
        return False
    # A LoRA that acts from some words on (aLoRA) searches the pass's tokens for them.
    return any(
        config.peft_type not in POINTWISE or getattr(config, "alora_invocation_tokens", None)
        for config in model.peft_config.values()
    )


def _most_tokens(config: Any) -> float:
    """Return the tokens up to which a token's keys do not depend on how long the rows of a pass are."""
    # GPT-Neo's local layers keep all keys and count back from the query, over what stands between two rows too.
    limits = [getattr(config, "window_size", None) or math.inf]
    rotary = getattr(config, "rope_parameters", None) or {}
    for part in (rotary, *(value for value in rotary.values() if isinstance(value, dict))):
        kind = part.get("rope_type", "default")
        if kind == "longrope":
            limits.append(part.get("original_max_position_embeddings", 0))
        elif "dynamic" in kind:
            # A pass of exactly so many keeps the frequencies of a longer one before it.
            limits.append(config.max_position_embeddings - 1)
    return float(min(limits))
