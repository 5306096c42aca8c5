"""Batched greedy generation through the tokenizer's chat template."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from mithridate.data.chat_template import TEMPLATE_FAULTS
from mithridate.errors import ModelError, UsageError
from mithridate.evaluation.spread import own_batches, put_together
from mithridate.evaluation.vllm.served_model import ModelOnVllm
from mithridate.models.modes import evaluating
from mithridate.models.positions import most_positions
from mithridate.models.preconditions import check_finite

Message = Mapping[str, str]


def generate(
    model: PreTrainedModel | ModelOnVllm,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    system: str | None = None,
    prefill: str | None = None,
    progress: bool = False,
) -> list[str]:
    """Return greedy completions of single-turn prompts, in their order.

    Args:
        model: Causal language model, plain or PEFT, or served by vLLM (`mithridate.served_by_vllm`).
        tokenizer: Its tokenizer, with a chat template.
        prompts: User texts.
        max_new_tokens: Longest completion, in tokens.
        batch_size: Prompts per forward pass; the completions do not depend on it. vLLM makes batches of its own.
        system: System message put before every prompt.
        prefill: Text with which every answer is made to begin, as an attacker may; the completion is what follows it.
        progress: Whether to show a progress bar on standard error.

    Returns:
        One stripped completion per prompt, without special tokens.

    Raises:
        ModelError: If there is no usable chat template, weights or logits hold NaN or Inf, or vLLM fails.
        UsageError: If an argument is out of range or a prompt leaves no room for the answer.
    """
    if isinstance(prompts, str):
        raise UsageError("prompts must be a list of texts, not one text: put it in a list")
    before = [{"role": "system", "content": system}] if system is not None else []
    chats = [[*before, {"role": "user", "content": prompt}] for prompt in prompts]
    return generate_chats(
        model,
        tokenizer,
        chats,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        prefill=prefill,
        progress=progress,
    )


def generate_chats(
    model: PreTrainedModel | ModelOnVllm,
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    prefill: str | None = None,
    progress: bool = False,
) -> list[str]:
    """Return greedy completions of conversations that end with the user's turn; otherwise like `generate`."""
    if max_new_tokens < 1 or batch_size < 1:
        raise UsageError(f"max_new_tokens and batch_size must be >= 1, not {max_new_tokens} and {batch_size}")
    if not chats:
        return []
    opening = [] if prefill is None else tokenizer(prefill, add_special_tokens=False)["input_ids"]
    encoded = [[*ids, *opening] for ids in encoded_chats(tokenizer, chats)]
    ids = generate_ids(
        model, tokenizer, encoded, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
    )
    # Some tokenizers clean up by default, which drops the space of " ," and so changes what is graded and judged.
    texts: list[str] = [
        tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False) for row in ids
    ]
    return [text.strip() for text in texts]


def generate_ids(
    model: PreTrainedModel | ModelOnVllm,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: bool = False,
) -> list[list[int]]:
    """Return the greedy continuation of every row of token ids, without its end token.

    Raises:
        ModelError: If weights or logits hold NaN or Inf, or vLLM fails.
        UsageError: If a row leaves no room for the continuation.
    """
    _check_room(model, encoded, max_new_tokens)
    if isinstance(model, ModelOnVllm):
        ends = _end_ids(model, tokenizer)
        return [_until_end(row, ends) for row in model.continued(encoded, ends, max_new_tokens, progress)]
    # A damaged model still answers, with text that no judge calls harmful.
    check_finite(model)
    # Longest first: batches hold little padding, and one that does not fit into memory fails at the start.
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    found: dict[int, list[int]] = {}
    bar = track(own_batches(batches), "generating", console=Console(stderr=True), transient=True, disable=not progress)
    with _greedy(model, tokenizer, max_new_tokens) as config, torch.inference_mode():
        for rows in bar:
            continued = _continue_batch(model, [encoded[i] for i in rows], config)
            found |= dict(zip(rows, continued, strict=True))
    found = put_together(found)
    return [found[i] for i in range(len(encoded))]


def encoded_chats(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Return the token ids of every conversation, up to where the template opens the completion."""
    if tokenizer.chat_template is None:
        raise ModelError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template: use the model's chat version, "
            "or set tokenizer.chat_template to the template that the model was trained with"
        )
    try:
        ids = tokenizer.apply_chat_template(
            [[dict(message) for message in chat] for chat in chats],
            add_generation_prompt=True,
            tokenize=True,
            padding=False,
            truncation=False,
            return_dict=True,
        )["input_ids"]
    except TEMPLATE_FAULTS as error:
        raise ModelError(f"the chat template of {tokenizer.name_or_path!r} refused a conversation: {error}") from error
    return [list(row) for row in ids]


def _check_room(model: PreTrainedModel | ModelOnVllm, encoded: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse prompts whose answer would run past the positions the model was made for."""
    limit = most_positions(model.config)
    for i, ids in enumerate(encoded):
        if len(ids) + max_new_tokens > limit:
            raise UsageError(
                f"prompt {i} has {len(ids)} tokens and leaves no room for max_new_tokens={max_new_tokens} "
                f"within the model's {limit} positions: shorten the prompt or ask for fewer tokens"
            )


@contextmanager
def _greedy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int
) -> Iterator[GenerationConfig]:
    """Evaluation mode and a plain greedy configuration inside the block; both as before after it.

    `model.generate` fills what a given configuration leaves open from the model's own one, so sampling,
    penalties and forced tokens can only be switched off by replacing that one too.
    """
    ends = _end_ids(model, tokenizer)
    # generate() fills rows that have ended with the padding token, so it needs one even where the tokenizer has none.
    pad = tokenizer.pad_token_id
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=pad if pad is not None else min(ends, default=0),
    )
    # PEFT hands its own configuration down to the inner model whenever it generates, so both must be replaced.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    owners = {id(m): (m, m.generation_config) for m in (model, inner) if "generation_config" in vars(m)}
    with evaluating(model):
        try:
            for owner, _ in owners.values():
                owner.generation_config = GenerationConfig()
            yield config
        finally:
            for owner, own_config in owners.values():
                owner.generation_config = own_config


def _end_ids(model: PreTrainedModel | ModelOnVllm, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end a completion: the tokenizer's and the generation configuration's."""
    # Many chat models end a turn with a token that is not the tokenizer's end token and is listed only here.
    own = getattr(model.generation_config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return sorted({i for i in [*listed, tokenizer.eos_token_id] if i is not None})


def _continue_batch(
    model: PreTrainedModel, encoded: Sequence[Sequence[int]], config: GenerationConfig
) -> list[list[int]]:
    """Continue one batch; padded on the left by hand, so the tokenizer's own padding side plays no part."""
    width = max(len(ids) for ids in encoded)
    ids = torch.tensor([[config.pad_token_id] * (width - len(row)) + list(row) for row in encoded])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded])
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
        logits_processor=[_FiniteLogits()],
    )
    return [_until_end(row, config.eos_token_id or []) for row in output[:, width:].tolist()]


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """Return the ids up to the first end token."""
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]


class _FiniteLogits:
    """Logits processor that passes logits through and refuses rows whose largest one is NaN or Inf."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # max hands NaN on; −inf elsewhere in the row only rules tokens out.
        if not bool(scores.amax(dim=-1).isfinite().all()):
            raise ModelError("the model's logits hold NaN or Inf: its weights are damaged or overflow in this dtype")
        return scores
