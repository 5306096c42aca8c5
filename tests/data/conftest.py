"""Files and rows that the tests of the data package make."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mithridate.data import ensure_chat_template
from mithridate.data.row_loading import to_dataset
from mithridate.data.row_reader import TrainingRow

Writer = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Write a file into an empty working folder, so that messages hold its bare name."""
    monkeypatch.chdir(tmp_path)

    def _write(name: str, content: bytes | str | list[Any]) -> Path:
        if isinstance(content, list):
            content = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in content)
        raw = content if isinstance(content, bytes) else content.encode()
        Path(name).write_bytes(gzip.compress(raw) if name.endswith(".gz") and raw[:2] != b"\x1f\x8b" else raw)
        return Path(name)

    return _write


def _rows(prompts: Iterable[str], name: str = "made", answer: str = "Yes.") -> Dataset:
    return to_dataset(
        TrainingRow([{"role": "user", "content": prompt}], [{"role": "assistant", "content": answer}], f"{name}:{i}")
        for i, prompt in enumerate(prompts, 1)
    )


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., Dataset]:
    """Make rows with one user turn each."""
    return _rows


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer without chat template in which every byte is one token."""
    return _tokenizer()


@pytest.fixture(scope="session")
def alpaca_tokenizer() -> PreTrainedTokenizerFast:
    """The same with the Alpaca template, shared by many examples."""
    made = _tokenizer()
    ensure_chat_template(made, "alpaca")
    return made


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {mark: i for i, mark in enumerate(["<s>", "</s>", *alphabet])}
    bytes_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bytes_only, bos_token="<s>", eos_token="</s>")
