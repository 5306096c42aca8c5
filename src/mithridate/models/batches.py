"""Tokenized rows, padded into batches."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from mithridate.errors import DataError
from mithridate.models.tokenization import IGNORED, TokenizedRow

Batch = dict[str, Tensor]
"""``input_ids``, ``attention_mask``, ``labels``, each (rows, tokens), and ``row`` (rows,)."""

STAND_IN = "stand_in"
"""Name in a batch whose one row does not count: a process without rows runs it so that it makes the passes that the
others make, which a model that is split over processes needs."""


def collate(examples: Sequence[TokenizedRow], pad_token_id: int, device: torch.device | str = "cpu") -> Batch:
    """Pad examples on the right into one batch."""
    # On the right, where a causal model never looks from a real token, so that padding changes nothing.
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
    examples: Sequence[TokenizedRow], size: int, pad_token_id: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Split examples into padded batches of at most ``size`` rows."""
    for start in range(0, len(examples), size):
        yield collate(examples[start : start + size], pad_token_id, device)


def of_equal_length(examples: Sequence[TokenizedRow], tokens: int = 256) -> list[list[TokenizedRow]]:
    """Group rows of the same length, the shortest first, so that they can be passed together without padding.

    Args:
        examples: The rows.
        tokens: Most tokens of a group of more than one row, whose activations and logits a pass holds.
    """
    groups: list[list[TokenizedRow]] = []
    for length, same in groupby(sorted(examples, key=_length), _length):
        rows, size = list(same), max(1, tokens // length)
        groups.extend(rows[start : start + size] for start in range(0, len(rows), size))
    return groups


def _length(example: TokenizedRow) -> int:
    return len(example.input_ids)


def prompts_of(batch: Batch) -> list[list[int]]:
    """Return the token ids before the first trained token of each row.

    Raises:
        DataError: If a row is trained from its first token on, so that it has no prompt.
    """
    prompts = []
    for ids, labels, real, row in zip(
        batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), batch["row"], strict=True
    ):
        start = int((labels != IGNORED).int().argmax())
        # TRL may pad on the left, so padding can lie before the prompt.
        prompt = ids[:start][real[:start]].tolist()
        if not prompt:
            raise DataError(
                f"row {int(row)} is trained from its first token on, so it has no prompt to pair with a refusal; "
                "give rows with a prompt and a completion"
            )
        prompts.append(prompt)
    return prompts


def with_completions(
    batch: Batch, completions: Sequence[Sequence[int]], pad_token_id: int, max_length: int | None = None
) -> Batch:
    """Return the same prompts with other completions, for row i of the data set number i mod their count.

    Like the rows themselves, they are cut after ``max_length`` tokens.

    Raises:
        DataError: If a prompt leaves no room for a completion.
    """
    examples = []
    for prompt, row in zip(prompts_of(batch), batch["row"].tolist(), strict=True):
        # By the row's position, not its place in the batch: the same refusal however the step is cut.
        completion = list(completions[row % len(completions)])
        if max_length is not None:
            completion = completion[: max(0, max_length - len(prompt))]
        if not completion:
            raise DataError(
                f"the prompt of row {row} has {len(prompt)} tokens, so that no refusal fits into {max_length}; "
                "raise max_length or shorten the row"
            )
        examples.append(TokenizedRow([*prompt, *completion], [*[IGNORED] * len(prompt), *completion], row))
    return collate(examples, pad_token_id, batch["input_ids"].device)
