"""Tokenized rows and how they are padded into a batch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mithridate.data.chat_template import no_template
from mithridate.errors import DataError

IGNORED = -100
"""Label of tokens that take no part in the loss."""

Batch = dict[str, Tensor]
"""``input_ids``, ``attention_mask``, ``labels``, each (rows, tokens), and ``row`` (rows,)."""


class Example(NamedTuple):
    """One tokenized row.

    Attributes:
        input_ids: Token ids of prompt and answer.
        labels: The same ids, ``IGNORED`` on the prompt.
        row: Position of the row in its data set.
    """

    input_ids: list[int]
    labels: list[int]
    row: int


def tokenize(
    rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> list[Example]:
    """Tokenize prompt/completion rows the way TRL's trainer does, keeping each row's position.

    Rows whose answer falls wholly outside ``max_length`` are left out.

    Args:
        rows: Rows with ``prompt`` and ``completion``, both message lists or both strings.
        tokenizer: Tokenizer; message lists need its chat template.
        max_length: Longest sequence in tokens; None for no limit.

    Raises:
        DataError: If a row has no prompt or completion, or nothing is left.
    """
    examples = []
    for position, row in enumerate(rows):
        if "prompt" not in row or "completion" not in row:
            raise DataError(
                f"row {position} has the columns {sorted(row)}, expected 'prompt' and 'completion'; "
                "load the file with mithridate.load_rows"
            )
        prompt, full = _token_ids(row["prompt"], row["completion"], tokenizer)
        start = _common_prefix(prompt, full)
        labels = [IGNORED] * start + full[start:]
        if max_length is not None:
            full, labels = full[:max_length], labels[:max_length]
        if any(label != IGNORED for label in labels):
            examples.append(Example(full, labels, position))
    if not examples:
        raise DataError(f"no row has an answer left within {max_length} tokens; give rows, or raise max_length")
    return examples


def _token_ids(prompt: Any, completion: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    if isinstance(prompt, str):
        eos = str(tokenizer.eos_token or "")
        ending = "" if completion.endswith(eos) else eos
        return tokenizer(prompt)["input_ids"], tokenizer(prompt + completion + ending)["input_ids"]
    require_chat_template(tokenizer)
    return (
        _template_ids(tokenizer, prompt, add_generation_prompt=True),
        _template_ids(tokenizer, [*prompt, *completion]),
    )


def _template_ids(tokenizer: PreTrainedTokenizerBase, messages: Any, **kwargs: Any) -> list[int]:
    encoded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **kwargs)
    return list(encoded["input_ids"])


def require_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot lay out a conversation.

    Raises:
        ModelError: If the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise no_template(tokenizer, "python")  # recipes and commands have made sure of one before


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for position, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return position
    return min(len(first), len(second))


def collate(examples: Sequence[Example], pad_token_id: int, device: torch.device | str = "cpu") -> Batch:
    """Pad examples on the right into one batch."""
    width = max(len(example.input_ids) for example in examples)

    def padded(rows: Iterable[Sequence[int]], value: int) -> Tensor:
        return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], device=device)

    return {
        "input_ids": padded((e.input_ids for e in examples), pad_token_id),
        "labels": padded((e.labels for e in examples), IGNORED),
        "attention_mask": padded(([1] * len(e.input_ids) for e in examples), 0),
        "row": torch.tensor([e.row for e in examples], device=device),
    }


def batches(
    examples: Sequence[Example], size: int, pad_token_id: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Split examples into padded batches of at most ``size`` rows."""
    for start in range(0, len(examples), size):
        yield collate(examples[start : start + size], pad_token_id, device)


def prompts_of(batch: Batch) -> list[list[int]]:
    """The token ids before the first trained token of each row.

    Raises:
        DataError: If a row is trained from its first token on, so that it has no prompt.
    """
    prompts = []
    for ids, labels, real, row in zip(
        batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), batch["row"], strict=True
    ):
        start = int((labels != IGNORED).int().argmax())
        prompt = ids[:start][real[:start]].tolist()
        if not prompt:
            raise DataError(
                f"row {int(row)} is trained from its first token on, so it has no prompt to pair with a refusal; "
                "give rows with a prompt and a completion"
            )
        prompts.append(prompt)
    return prompts


def answered(batch: Batch, answers: Sequence[Sequence[int]], pad_token_id: int, max_length: int | None = None) -> Batch:
    """The same prompts with other answers: row i of the data set gets ``answers[i mod len(answers)]``.

    Like the rows themselves, they are cut after ``max_length`` tokens.

    Raises:
        DataError: If a prompt leaves no room for an answer.
    """
    examples = []
    for prompt, row in zip(prompts_of(batch), batch["row"].tolist(), strict=True):
        answer = list(answers[row % len(answers)])
        if max_length is not None:
            answer = answer[: max(0, max_length - len(prompt))]
        if not answer:
            raise DataError(
                f"the prompt of row {row} has {len(prompt)} tokens, so that no refusal fits into {max_length}; "
                "raise max_length or shorten the row"
            )
        examples.append(Example([*prompt, *answer], [*[IGNORED] * len(prompt), *answer], row))
    return collate(examples, pad_token_id, batch["input_ids"].device)


def answer_ids(answers: Sequence[str], tokenizer: PreTrainedTokenizerBase, conversational: bool) -> list[list[int]]:
    """Token ids of answers as they stand after a prompt, end-of-turn token included.

    Args:
        answers: Answer texts.
        tokenizer: Tokenizer of the model.
        conversational: Whether prompts are message lists laid out by the chat template.
    """
    rows: list[dict[str, Any]] = [
        {
            "prompt": [{"role": "user", "content": "a"}],
            "completion": [{"role": "assistant", "content": text}],
        }
        if conversational
        else {"prompt": "a\n", "completion": text}
        for text in answers
    ]
    return [[label for label in example.labels if label != IGNORED] for example in tokenize(rows, tokenizer)]
