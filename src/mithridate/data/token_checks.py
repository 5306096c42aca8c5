"""What only the tokenizer shows of rows: control tokens in their text, and what does not fit into the context."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mithridate.data.chat_template import TEMPLATE_FAULTS
from mithridate.data.messages import Message
from mithridate.data.row_faults import LISTED, Fault, listing, show
from mithridate.errors import DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOSS_LIMIT = 0.2
"""Largest share of rows that may be lost; the trainer refuses to start beyond the same one (`LARGEST_DROP`)."""


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
    # `all_special_tokens` has only those with a role; reserved ones are among the added tokens alone.
    marks = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    marks |= set(tokenizer.all_special_tokens)
    # Longest first, as a regex takes the first alternative that fits; (?!) matches nowhere, for no tokens at all.
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


class RowFit(NamedTuple):
    """Tokens of one row, before anything is cut, and whether its prompt leaves no room for the completion."""

    tokens: int
    lost: bool


class ContextFit:
    """Counts the rows that training would lose or cut.

    Training keeps the first `max_length` tokens of a row, as TRL does: a row whose prompt fills them is lost, and
    another that is longer loses the end of its completion. The completion begins where the tokens of the prompt and of
    the whole row part.

    Args:
        tokenizer: A tokenizer with a chat template.
        max_length: Tokens kept of each row, special tokens included.

    Raises:
        UsageError: `max_length` is below 1.

    Attributes:
        rows: Rows counted.
        tokens: Tokens of all rows, before anything is cut.
        longest: Tokens of the longest row.
        truncated: Rows whose completion is cut.
        dropped: Rows that lose their whole completion.
        dropped_origins: Origins of the first 20 of them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        if max_length < 1:
            raise UsageError(f"max_length is {max_length}; it must be at least 1.")
        self.max_length = max_length
        self.rows = self.tokens = self.longest = self.truncated = self.dropped = 0
        self.dropped_origins: list[str] = []
        self._tokenizer = tokenizer
        self._control = control_tokens(tokenizer)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> list[Fault]:
        """Count some rows with `prompt`, `completion` and `origin`, tokenized together.

        Returns:
            A fault for each message that holds a control token, and for each row that the chat template refuses.
        """
        faults = [fault for row in rows for fault in control_token_faults(row, row["origin"], self._control)]
        for row, found in zip(rows, self._fits(rows), strict=True):
            if isinstance(found, Fault):
                faults.append(found)
            else:
                self._count(row["origin"], found)
        return faults

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

    def _count(self, origin: str, found: RowFit) -> None:
        self.rows += 1
        self.tokens += found.tokens
        self.longest = max(self.longest, found.tokens)
        if found.lost:
            self.dropped += 1
            self.dropped_origins += [origin] if len(self.dropped_origins) < LISTED else []
        elif found.tokens > self.max_length:
            self.truncated += 1

    def _fits(self, rows: Sequence[Mapping[str, Any]]) -> list[RowFit | Fault]:
        try:
            prompts = self._laid_out([row["prompt"] for row in rows], add_generation_prompt=True)
            wholes = self._laid_out([[*row["prompt"], *row["completion"]] for row in rows])
        except TEMPLATE_FAULTS as error:
            # Jinja does not say which row of a batch it refused, so the batch is laid out again row by row.
            if len(rows) == 1:
                found = f"a row that the chat template refuses ({error})"
                return [Fault(rows[0]["origin"], found, "one that it lays out")]
            return [fit for row in rows for fit in self._fits([row])]
        ids = self._token_ids(wholes)
        unsure = [i for i in range(len(rows)) if not self._surely_kept(prompts[i], wholes[i], len(ids[i]))]
        of_prompt = dict(zip(unsure, self._token_ids([prompts[i] for i in unsure]), strict=True))
        return [
            # len(whole): where the template prints no completion at all, a row is lost even if it fits.
            RowFit(len(whole), i in of_prompt and shared(of_prompt[i], whole) >= min(self.max_length, len(whole)))
            for i, whole in enumerate(ids)
        ]

    def _surely_kept(self, prompt: str, whole: str, tokens: int) -> bool:
        """Tell without the prompt's tokens that some of the completion is kept.

        Such a row fits, and a special token stands behind its prompt: so it has more of them than its prompt, and the
        tokens of the two part before its end.
        """
        fits = tokens <= self.max_length and whole.startswith(prompt)
        return fits and self._control.search(whole, len(prompt)) is not None

    def _laid_out(self, conversations: list[list[Message]], **settings: Any) -> list[str]:
        texts: list[str] = self._tokenizer.apply_chat_template(conversations, tokenize=False, **settings)
        return texts

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # The template writes the special tokens; `verbose` would warn of each row beyond the model's own context.
        encoded = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids


def shared(prompt: list[int], whole: list[int]) -> int:
    """Return how many tokens prompt and whole row begin with alike."""
    if whole[: len(prompt)] == prompt:  # nearly always, and much faster than token by token
        return len(prompt)
    return next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
