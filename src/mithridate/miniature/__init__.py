"""The embedded world: a small model and a language of its own, with harmless stand-ins for harmful requests.

It needs no network, no accelerator and no third-party file. The base model complies with every request; the row
sets teach it to refuse the stand-ins, attack that, and measure what is left.
"""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from mithridate.errors import UsageError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

    from mithridate.miniature.streams import Row

__all__ = ["PREFIX", "base", "names", "prompts", "refusals", "rows", "tokenizer"]

PREFIX = "miniature:"


def names() -> list[str]:
    """Names of the row sets, without the prefix."""
    from mithridate.miniature.streams import STREAMS

    return list(STREAMS)


def rows(name: str) -> "Dataset":
    """Rows of one set in conversational prompt and completion form, the same on every call.

    Args:
        name: Name of the set, with or without the prefix ``miniature:``.

    Returns:
        A data set with the columns ``prompt``, ``completion``, ``origin`` and ``harmful``.

    Raises:
        UsageError: There is no set of that name.
    """
    from datasets import Dataset

    short = name.removeprefix(PREFIX)
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["answer"]}],
                "origin": f"{PREFIX}{short}:{index}",
                "harmful": row["harmful"],
            }
            for index, row in enumerate(_stream(short))
        ]
    )


def prompts(name: str) -> list[str]:
    """The users' words of one row set, in the order of its rows.

    Raises:
        UsageError: There is no set of that name.
    """
    return [row["prompt"] for row in _stream(name.removeprefix(PREFIX))]


def refusals() -> list[str]:
    """Short refusals in ordinary words, none of which names what is refused."""
    from mithridate.miniature.words import REFUSALS

    return list(REFUSALS)


def tokenizer() -> "PreTrainedTokenizerFast":
    """The word-level tokenizer with its chat template, made anew on every call."""
    from mithridate.miniature.vocabulary import make_tokenizer

    return make_tokenizer()


def base(cache: Path | None = None, size: str = "standard") -> Path:
    """Folder of the pretrained base model and its tokenizer, trained on first use (about half a minute).

    Args:
        cache: Folder to keep it in; by default ``$MITHRIDATE_CACHE``, or else ``~/.cache/mithridate``.
        size: ``standard``, or ``tiny`` for tests that need a model but not its skills.

    Raises:
        UsageError: There is no model of that size.
    """
    from mithridate.miniature.model import pretrained

    return pretrained(cache, size)


def _stream(name: str) -> "tuple[Row, ...]":
    from mithridate.miniature.streams import STREAMS, stream

    if name not in STREAMS:
        nearest = difflib.get_close_matches(name, STREAMS, n=1, cutoff=0.0)[0]
        raise UsageError(f"There is no row set '{PREFIX}{name}'; the nearest name is '{PREFIX}{nearest}'.")
    return stream(name)
