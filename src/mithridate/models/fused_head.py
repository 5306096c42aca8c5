"""The output head: log-probabilities of the completion's tokens, with or without the vocabulary's logits."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from trl.trainer import utils as trl_utils
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from mithridate.models.batches import Batch
from mithridate.models.token_chunks import by_tokens
from mithridate.models.tokenization import IGNORED
from mithridate.models.unpadded import UnpaddedRows

_WIDTH = "_CHUNKED_LOGPROB_CHUNK_SIZE"
WORDS_AT_ONCE: int = getattr(trl_utils, _WIDTH)
"""Words of the vocabulary that TRL's head works on at once; it takes a buffer of tokens × words."""
FIGURES = ("log_probs", "entropy", "is_top1")
"""What TRL's fused head computes for each token."""


def scored(
    model: nn.Module,
    batch: Batch,
    logits: bool = False,
    unpadded: UnpaddedRows | None = None,
    further: Mapping[str, Any] | None = None,
) -> Any:
    """Score a batch in one forward pass.

    Args:
        model: A causal language model, PEFT or plain.
        batch: Rows to score.
        logits: Whether to return the logits.
        unpadded: The same batch laid end to end, to be passed so.
        further: Other inputs of the model, or others in the place of these.

    Returns:
        ``log_probs``, ``entropy``, ``is_top1`` and ``label_mask``, each (rows, tokens − 1) and zero outside the
        completion,
        and ``logits`` (rows, tokens − 1, vocabulary) where they are asked for.
    """
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    labels = batch["labels"]
    if unpadded is not None:
        inputs, labels = unpadded.inputs, unpadded.labels
    inputs |= further or {}

    def by_row(states: Tensor, fewer: int = 0) -> Tensor:
        return own_tokens(states, batch, fewer) if unpadded is None else unpadded.rows(states, fewer)

    if logits:
        # The logits at position t are those of token t + 1.
        every = by_row(model(**inputs).logits)[:, :-1]
        return SimpleNamespace(logits=every, **_figures(every, batch["labels"][:, 1:]))
    with fused_head(model):
        output = model(**inputs, labels=labels, fused_lm_head=True)
    return SimpleNamespace(**{name: by_row(getattr(output, name), 1) for name in (*FIGURES, "label_mask")})


@contextmanager
def fused_head(model: nn.Module) -> Iterator[None]:
    """Inside the block the causal model takes ``fused_lm_head=True``, as TRL's trainer calls it.

    TRL's head never holds the vocabulary's logits at once. It reads the head's weight itself, so a head that is more
    than a plain linear layer (LoRA on it, a copy in ``modules_to_save``, quantized) is run as the model runs it.

    Either is a forward bound to this very model, so a copy of the model made inside the block would run the original.
    """
    causal = causal_of(model)
    # Whatever was bound there before, such as accelerate's autocast, must be there again after the block.
    before = causal.__dict__.get("forward")
    head = causal.get_output_embeddings()
    if _is_plain(head):
        if isinstance(head, FSDPModule):
            head.unshard()
        add_fused_lm_head(causal, outputs=FIGURES)
    else:
        causal.forward = _running_the_head(causal.forward)
    try:
        with _words_at_once(head):
            yield
    finally:
        del causal.forward
        if before is not None:
            causal.forward = before


@contextmanager
def _words_at_once(head: Any) -> Iterator[None]:
    """Inside the block TRL's head takes no buffer for more words than a vocabulary has.

    Its width is a constant of TRL's module, which no argument changes. Any width gives the same figures, so that
    another thread may see this one.
    """
    words = int(head.weight.shape[0]) if _is_plain(head) else WORDS_AT_ONCE
    setattr(trl_utils, _WIDTH, min(words, WORDS_AT_ONCE))
    try:
        yield
    finally:
        setattr(trl_utils, _WIDTH, WORDS_AT_ONCE)


def drop_fused_head(model: nn.Module) -> None:
    """Take away the fused head that TRL's trainer leaves on a model."""
    causal = causal_of(model)
    forward = causal.__dict__.get("forward")
    # TRL's function has no other mark; a test pins its name.
    if forward is not None and forward.__code__.co_name == "_fused_forward":
        del causal.forward


def causal_of(model: nn.Module) -> Any:
    """Return the causal language model inside PEFT's wrapper."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _is_plain(head: Any) -> bool:
    # TRL reads head.weight itself, so hooks, wrappers and replaced forwards of the head would be passed over.
    # FSDP2 makes a subclass and sets one hook before and one behind the forward; it is made whole without them.
    split = isinstance(head, FSDPModule)
    linear = type(head).__bases__ == (FSDPModule, nn.Linear) if split else type(head) is nn.Linear
    hooked = max(len(head._forward_hooks), len(head._forward_pre_hooks)) > split or "forward" in head.__dict__
    return linear and not hooked and not (split and _is_summed_alone(head))


def _is_summed_alone(head: Any) -> bool:
    """Return whether FSDP2 waits for the head's own forward pass to sum its gradient over processes.

    A head that is one unit with the norm before it is summed after the norm's backward pass. Hooks of a unit of one
    module are methods of its state, those of several are functions.
    """
    return head.weight.requires_grad and all(hasattr(hook, "__self__") for hook in head._forward_pre_hooks.values())


def _running_the_head(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward with the fused head's results, made of the model's own logits."""

    @functools.wraps(original)
    def forward(*args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return original(*args, labels=labels, **kwargs)
        # TRL's trainer and `scored` always pass them with fused_lm_head.
        assert labels is not None
        figures = _figures(original(*args, **kwargs).logits[:, :-1], labels[:, 1:])
        loss = -figures["log_probs"].sum() / figures["label_mask"].sum().clamp(min=1)
        return FusedCausalLMOutput(loss=loss, **figures)

    return forward


def _figures(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return what the fused head computes, from logits (rows, tokens, vocabulary), in float32 at least."""
    mask = labels != IGNORED
    words = logits.shape[-1]
    # Ignored labels are negative; they are clamped to index anything and masked after.
    found = by_tokens(_likelihoods, words, logits.reshape(-1, words), labels.clamp(min=0).reshape(-1))
    log_probs, entropy = found.view(*mask.shape, 2).unbind(dim=-1)
    return {
        "log_probs": log_probs.masked_fill(~mask, 0),
        "entropy": entropy.masked_fill(~mask, 0),
        "is_top1": (logits.argmax(dim=-1) == labels) & mask,
        "label_mask": mask,
    }


def _likelihoods(logits: Tensor, labels: Tensor) -> Tensor:
    """(tokens, 2) log-probability of each label and entropy, in nats, of logits (tokens, vocabulary)."""
    # In half precision a softmax over a large vocabulary loses the very differences that weights are made of.
    everywhere = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    picked = everywhere.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return torch.stack([picked, -(everywhere.exp() * everywhere).sum(dim=-1)], dim=-1)


def own_tokens(states: Tensor, batch: Batch, fewer: int = 0) -> Tensor:
    """(rows, tokens − fewer, …) without the virtual tokens that prompt tuning puts in front."""
    # Counted from the end, since prompt tuning puts virtual tokens in front.
    return states[:, -(batch["input_ids"].shape[1] - fewer) :]
