"""How many tokens rows have, and how many a batch of them is padded to."""

import random
from collections.abc import Sequence
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple

from mithridate.experiment.jobs import StoredRows
from mithridate.experiment.row_files import stored_rows, stored_texts
from mithridate.models.tokenization import IGNORED, completion_ids, tokenize

SAMPLED_BATCHES = 200
"""Batches drawn to find what padding costs; their mean is within 1 % where lengths differ by a factor of four."""


class RowTokens(NamedTuple):
    """Lengths of a set of rows.

    Attributes:
        rows: Number of rows with something to learn.
        whole: Tokens of each row, prompt and completion; a single figure where all are assumed alike.
        prompts: Tokens of each row's prompt, likewise.
    """

    rows: int
    whole: tuple[int, ...]
    prompts: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean tokens of a row."""
        return fmean(self.whole)

    def ending(self, added: float, longest: int) -> "RowTokens":
        """Return the lengths with other completions.

        Args:
            added: Mean tokens of these.
            longest: Tokens after which a row is cut.
        """
        return self._replace(whole=tuple(min(longest, round(prompt + added)) for prompt in self.prompts))

    def part(self, name: str) -> "RowTokens":
        """Return the lengths of what is passed of each row.

        Args:
            name: ``whole``; ``prompts``, with the token that marks their end; ``completions``, with the prompt's last
                token, which predicts their first one.
        """
        if name == "prompts":
            return self._replace(whole=tuple(prompt + 1 for prompt in self.prompts))
        if name == "completions":
            lengths = zip(self.whole, self.prompts, strict=True)
            return self._replace(whole=tuple(every - prompt + 1 for every, prompt in lengths))
        return self


class Padded(NamedTuple):
    """Moments of the padded length of a batch: mean t and mean t², with t the tokens of its longest row.

    Where t tokens look back at more than themselves, ``square`` is the mean product of both numbers.
    """

    mean: float
    square: float


class RowLengths:
    """Lengths of the rows of a plan.

    Args:
        tokenizer: The model's tokenizer; None where it cannot be read.
        max_length: Longest row in tokens.
        assumed: Rows of the sets that could not be read, by hash.
        assumed_tokens: Tokens of a row that could not be read.

    Attributes:
        assumed_tokens: The same, cut to the longest row.
    """

    def __init__(self, tokenizer: Any | None, max_length: int, assumed: dict[str, int], assumed_tokens: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length
        self._assumed, self.assumed_tokens = assumed, min(assumed_tokens, max_length)
        self._known: dict[str, RowTokens] = {}

    def of(self, stored: StoredRows) -> RowTokens:
        """Return the lengths of prompt and completion rows."""
        if stored.sha256 not in self._known:
            self._known[stored.sha256] = self._measured(stored)
        return self._known[stored.sha256]

    def of_prompts(self, stored: StoredRows) -> RowTokens:
        """Return the lengths of prompts, as a conversation's first turn."""
        if stored.sha256 in self._assumed or self._tokenizer is None:
            return self._guessed(stored, stored_texts)
        texts = stored_texts(stored)
        rows = [_asked(text) for text in texts]
        lengths = tuple(len(prompt) for prompt in _prompt_ids(self._tokenizer, rows))
        return RowTokens(len(texts), lengths, lengths)

    def refusal(self, stored: StoredRows | None) -> float:
        """Return the mean tokens of a refusal."""
        if stored is None or stored.sha256 in self._assumed or self._tokenizer is None:
            return min(32, self.assumed_tokens)
        found = completion_ids(stored_texts(stored), self._tokenizer, conversational=True)
        return fmean(map(len, found))

    def _measured(self, stored: StoredRows) -> RowTokens:
        if stored.sha256 in self._assumed or self._tokenizer is None:
            return self._guessed(stored, stored_rows)
        examples = tokenize(stored_rows(stored), self._tokenizer, self._max_length)
        whole = tuple(len(example.input_ids) for example in examples)
        return RowTokens(len(examples), whole, tuple(example.labels.count(IGNORED) for example in examples))

    def _guessed(self, stored: StoredRows, read: Any) -> RowTokens:
        rows = self._assumed[stored.sha256] if stored.sha256 in self._assumed else len(read(stored))
        return RowTokens(rows, (self.assumed_tokens,), (self.assumed_tokens // 2,))


@cache
def padded(whole: tuple[int, ...], batch: int) -> Padded:
    """Return what batches of rows are padded to, on average over batches drawn at random with a fixed seed."""
    if len(set(whole)) == 1:
        return Padded(whole[0], whole[0] ** 2)
    chance = random.Random(0)
    size = min(batch, len(whole))
    longest = [max(chance.sample(whole, size)) for _ in range(SAMPLED_BATCHES)]
    return Padded(fmean(longest), fmean(length**2 for length in longest))


def _asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _prompt_ids(tokenizer: Any, chats: Sequence[list[dict[str, str]]]) -> list[list[int]]:
    found = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(found["input_ids"])
