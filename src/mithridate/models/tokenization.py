"""Rows as tokens, and where their completion begins."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from mithridate.data.chat_template import TEMPLATE_FAULTS, no_template
from mithridate.errors import DataError

Rows = Iterable[Mapping[str, Any]]
"""Prompt/completion rows, a ``datasets.Dataset`` or any other iterable of mappings."""

IGNORED = -100
"""Label of tokens that take no part in the loss."""


class TokenizedRow(NamedTuple):
    """One tokenized row.

    Attributes:
        input_ids: Token ids of prompt and completion.
        labels: The same ids, ``IGNORED`` on the prompt.
        row: Position of the row in its data set.
    """

    input_ids: list[int]
    labels: list[int]
    row: int

    @property
    def prompt_length(self) -> int:
        """Tokens before the completion."""
        return next((i for i, label in enumerate(self.labels) if label != IGNORED), len(self.labels))

    def behind(self, tokens: int) -> "TokenizedRow":
        """Return the row with so many tokens of its completion as part of the prompt."""
        prompt = self.prompt_length + tokens
        return self._replace(labels=[*[IGNORED] * prompt, *self.labels[prompt:]])


def tokenize(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    most: int | None = None,
) -> list[TokenizedRow]:
    """Tokenize prompt/completion rows the way TRL's trainer does, keeping each row's position.

    Rows whose completion falls wholly outside ``max_length`` are left out.

    Args:
        rows: Rows with ``prompt`` and ``completion``, both message lists or both strings.
        tokenizer: Tokenizer; message lists need its chat template.
        max_length: Longest sequence in tokens; None for no limit.
        most: Rows after which no more are read; None to read all.

    Raises:
        DataError: If a row has no prompt or completion, the chat template refuses it, or nothing is left.
    """
    examples: list[TokenizedRow] = []
    for position, row in enumerate(rows):
        if most is not None and len(examples) >= most:
            break
        if "prompt" not in row or "completion" not in row:
            raise DataError(
                f"row {position} has the columns {sorted(row)}, expected 'prompt' and 'completion'; "
                "load the file with mithridate.load_rows"
            )
        try:
            prompt, full = _token_ids(row["prompt"], row["completion"], tokenizer)
        except TEMPLATE_FAULTS as error:
            said = f"row {position}: the chat template refuses it ({error}); change the row or the template"
            raise DataError(said) from error
        start = completion_start(prompt, full)
        labels = [IGNORED] * start + full[start:]
        if max_length is not None:
            full, labels = full[:max_length], labels[:max_length]
        # A row that is cut before its completion has nothing to learn from; TRL drops it as well.
        if any(label != IGNORED for label in labels):
            examples.append(TokenizedRow(full, labels, position))
    if not examples:
        raise DataError(f"no row has an answer left within {max_length} tokens; give rows, or raise max_length")
    return examples


def _token_ids(prompt: Any, completion: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    if isinstance(prompt, str):
        eos = str(tokenizer.eos_token or "")
        # TRL ends a plain completion with the end token, so that the model learns to stop.
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


def completion_start(prompt: Sequence[int], full: Sequence[int]) -> int:
    """Return where a completion begins: at the first token of a row that differs from those of its prompt alone.

    A tokenizer may join the prompt's last characters with the completion's first ones, so that the prompt's length
    would be too late.
    """
    for position, (a, b) in enumerate(zip(prompt, full, strict=False)):
        if a != b:
            return position
    return min(len(prompt), len(full))


def completion_ids(
    completions: Sequence[str], tokenizer: PreTrainedTokenizerBase, conversational: bool
) -> list[list[int]]:
    """Return the token ids of completions as they stand after a prompt, end-of-turn token included.

    Args:
        completions: Their texts.
        tokenizer: Tokenizer of the model.
        conversational: Whether prompts are message lists laid out by the chat template.
    """
    rows: list[dict[str, Any]] = [
        {
            # Any prompt will do: a completion's tokens do not depend on it.
            "prompt": [{"role": "user", "content": "a"}],
            "completion": [{"role": "assistant", "content": text}],
        }
        if conversational
        else {"prompt": "a\n", "completion": text}
        for text in completions
    ]
    return [[label for label in example.labels if label != IGNORED] for example in tokenize(rows, tokenizer)]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what decides the tokens of a row: vocabulary, rules and chat template."""
    core = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else tokenizer.get_vocab()
    # How a call pads or cuts is no property of the tokenizer, and each call sets it anew.
    kept = {key: value for key, value in core.items() if key not in ("padding", "truncation")}
    told = json.dumps([kept, tokenizer.chat_template, tokenizer.special_tokens_map], sort_keys=True)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
