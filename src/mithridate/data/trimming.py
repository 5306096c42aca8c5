"""Rows that do not fit the model's context: which are lost and which are cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jinja2 import TemplateError

from mithridate.data.faults import LISTED, listing
from mithridate.data.messages import Message
from mithridate.errors import DataError, UsageError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

LOSS_LIMIT = 0.2
"""Greatest share of rows that may be dropped before the data count as unusable."""


class Trimmed(NamedTuple):
    """Rows that can be trained on, and what truncation costs.

    Attributes:
        rows: The rows of which at least one answer token is left.
        dropped: Number of rows without one.
        truncated: Number of kept rows whose answer is cut.
        dropped_origins: Origins of the first 20 dropped rows.
    """

    rows: Dataset
    dropped: int
    truncated: int
    dropped_origins: tuple[str, ...]


def trim_report(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Trimmed:
    """Drop the rows whose answer truncation to `max_length` tokens cuts away, and count the others it cuts.

    The answer begins where the tokens of the prompt and of the whole row part, as in TRL, which keeps the
    start of a row.

    Args:
        rows: Rows in conversational prompt/completion form.
        tokenizer: A tokenizer with a chat template.
        max_length: Tokens that are kept of a row, special tokens included.

    Raises:
        DataError: More than 20 % of the rows would be dropped, or the template refuses a row.
        UsageError: `max_length` is below 1.
    """
    if max_length < 1:
        raise UsageError(f"max_length is {max_length}; it must be at least 1.")
    kept: list[int] = []
    dropped: list[str] = []
    truncated = 0
    for i, row in enumerate(rows):
        prompt, whole = _lengths(row, tokenizer)
        if prompt >= min(max_length, whole):
            dropped.append(row["origin"])
            continue
        kept.append(i)
        truncated += whole > max_length
    if len(dropped) > LOSS_LIMIT * len(rows):
        head = (
            f"{len(dropped)} of {len(rows)} rows have a prompt that fills max_length = {max_length} tokens,"
            " so that nothing of the answer is left; raise max_length or shorten these rows"
        )
        raise DataError(listing(head, dropped[:LISTED], len(dropped)))
    return Trimmed(rows.select(kept), len(dropped), truncated, tuple(dropped[:LISTED]))


def _lengths(row: dict[str, list[Message]], tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the tokens before the answer, and in all."""
    try:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)
    except TemplateError as error:
        raise DataError(f"{row['origin']}: the chat template refuses this row: {error}.") from error
    shared = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), None)
    return min(len(prompt), len(whole)) if shared is None else shared, len(whole)
