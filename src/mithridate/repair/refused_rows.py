"""Which of the provider's harmless rows a model refuses, as far as it can be asked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mithridate.evaluation.generation import generate_ids
from mithridate.evaluation.judges import RefusalJudge
from mithridate.models.positions import most_positions
from mithridate.models.tokenization import IGNORED, TokenizedRow

OPENING = 24
"""Tokens of an answer that are read; a refusal is known by how it opens."""


class RefusedRows:
    """Asks the present model the prompts of harmless rows, greedily, and tells which it refuses, by rules.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        examples: The rows; those whose prompt leaves no room for an opening are left out.
        batch_size: Prompts per forward pass.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, examples: Sequence[TokenizedRow], batch_size: int
    ) -> None:
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        room = most_positions(model.config)
        prompts = [_prompt(example) for example in examples]
        self._prompts = [ids for ids in prompts if len(ids) + OPENING <= room]
        self._rules = RefusalJudge()

    def __len__(self) -> int:
        return len(self._prompts)

    def __call__(self) -> Tensor:
        """(rows,) 1 where the model refuses and 0 where it does not.

        Raises:
            ModelError: If weights or logits hold NaN or Inf.
        """
        said = generate_ids(
            self._model, self._tokenizer, self._prompts, max_new_tokens=OPENING, batch_size=self._batch_size
        )
        texts = self._tokenizer.batch_decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return torch.tensor([float(self._rules.refuses(text)) for text in texts], dtype=torch.float64)


def _prompt(example: TokenizedRow) -> list[int]:
    """Return the tokens before a row's answer."""
    return example.input_ids[: next(i for i, label in enumerate(example.labels) if label != IGNORED)]
