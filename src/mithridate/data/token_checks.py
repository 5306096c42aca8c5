"""What only the tokenizer shows of rows: control tokens in their text, and what does not fit into the context."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError

from mithridate.data.messages import Message
from mithridate.data.row_faults import LISTED, Fault, listing, show
from mithridate.errors import DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOSS_LIMIT = 0.2
"""Greatest share of rows that may be lost before the data count as unusable."""


def refuse_control_tokens(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse conversations whose text holds one of the tokenizer's special tokens.

    Such text is not read as text: it would reach the model as the token that ends a turn or begins an answer.

    Args:
        rows: Rows with `prompt` and `completion`, or `messages`, as message lists; texts without roles are left out.
        tokenizer: The tokenizer they are trained with.

    Raises:
        DataError: Naming each such row, message and token.
    """
    pattern = control_tokens(tokenizer)
    faults = [
        fault
        for position, row in enumerate(rows)
        for fault in control_token_faults(row, str(row.get("origin") or f"row {position}"), pattern)
    ]
    if faults:
        head = f"{len(faults)} messages hold control tokens of the tokenizer; remove or rewrite them"
        raise DataError(listing(head, [str(fault) for fault in faults[:LISTED]], len(faults)))


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Return a pattern that finds every special token of a tokenizer in a text."""
    marks = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    marks |= set(tokenizer.all_special_tokens)
    return re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True)) or "(?!)")


def control_token_faults(row: Mapping[str, Any], where: str, pattern: re.Pattern[str]) -> Iterator[Fault]:
    """Yield a fault for each message of a row that holds a control token.

    Args:
        row: A row with lists of messages.
        where: Its origin.
        pattern: What `control_tokens` returned.
    """
    for key in ("prompt", "completion", "messages"):
        messages = row.get(key)
        for number, message in enumerate(messages if isinstance(messages, list) else []):
            if found := pattern.search(message.get("content") or ""):
                yield Fault(where, f"the control token {show(found[0])} in {key}[{number}]", "text alone")


class Lengths(NamedTuple):
    """Tokens of one row: before the completion, and in all."""

    prompt: int
    whole: int


class ContextFit:
    """Counts the rows that training would lose or cut.

    Training keeps the first `max_length` tokens of a row, as TRL does: a row whose prompt fills them is lost, and
    another that is longer loses the end of its completion. The completion begins where the tokens of the prompt and of
    the whole row part.

    Args:
        tokenizer: A tokenizer with a chat template.
        max_length: Tokens that are kept of a row, special tokens included.

    Raises:
        UsageError: `max_length` is below 1.

    Attributes:
        rows: Rows counted.
        tokens: Tokens of all rows, before anything is cut.
        longest: Tokens of the longest row.
        truncated: Rows whose completion is cut.
        dropped: Rows of whose completion nothing is left.
        dropped_origins: Origins of the first 20 of them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        if max_length < 1:
            raise UsageError(f"max_length is {max_length}; it must be at least 1.")
        self.max_length = max_length
        self.rows = self.tokens = self.longest = self.truncated = self.dropped = 0
        self.dropped_origins: list[str] = []
        self._tokenizer = tokenizer

    def add(self, rows: Sequence[Mapping[str, Any]]) -> list[Fault]:
        """Count some rows with `prompt`, `completion` and `origin`, tokenized together.

        Returns:
            A fault for each row that the chat template refuses.
        """
        faults = []
        for row, found in zip(rows, row_lengths(rows, self._tokenizer), strict=True):
            if isinstance(found, Fault):
                faults.append(found)
            else:
                self._count(row["origin"], found)
        return faults

    def _count(self, origin: str, found: Lengths) -> None:
        self.rows += 1
        self.tokens += found.whole
        self.longest = max(self.longest, found.whole)
        if found.prompt >= min(self.max_length, found.whole):
            self.dropped += 1
            self.dropped_origins += [origin] if len(self.dropped_origins) < LISTED else []
        elif found.whole > self.max_length:
            self.truncated += 1

    @property
    def unusable(self) -> str | None:
        """What is wrong where more rows are lost than `LOSS_LIMIT` allows; None where enough are left."""
        if self.dropped <= LOSS_LIMIT * self.rows:
            return None
        head = (
            f"{self.dropped} of {self.rows} rows have a prompt that fills max_length = {self.max_length} tokens,"
            " so that nothing of the completion is left; raise max_length or shorten these rows"
        )
        return listing(head, self.dropped_origins, self.dropped)


def row_lengths(rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Lengths | Fault]:
    """Return the lengths of rows, tokenized as one batch; a fault for a row that the chat template refuses."""
    try:
        prompts = _laid_out([row["prompt"] for row in rows], tokenizer, add_generation_prompt=True)
        wholes = _laid_out([[*row["prompt"], *row["completion"]] for row in rows], tokenizer)
    except TemplateError as error:
        if len(rows) == 1:
            return [Fault(rows[0]["origin"], f"a row that the chat template refuses ({error})", "one that it lays out")]
        return [found for row in rows for found in row_lengths([row], tokenizer)]
    pairs = zip(_token_ids(prompts, tokenizer), _token_ids(wholes, tokenizer), strict=True)
    return [Lengths(_shared(prompt, whole), len(whole)) for prompt, whole in pairs]


def _laid_out(conversations: list[list[Message]], tokenizer: PreTrainedTokenizerBase, **settings: Any) -> list[str]:
    texts: list[str] = tokenizer.apply_chat_template(conversations, tokenize=False, **settings)
    return texts


def _token_ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    # The template writes the special tokens; `verbose` would warn of each row beyond the model's own context.
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _shared(prompt: list[int], whole: list[int]) -> int:
    """Return how many tokens prompt and whole row begin with alike."""
    if whole[: len(prompt)] == prompt:  # nearly always, and much faster than token by token
        return len(prompt)
    return next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
