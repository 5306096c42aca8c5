"""The base model of the miniature world: a small Llama, pretrained by code on first use and then kept in a cache."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from filelock import FileLock
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mithridate.errors import UsageError
from mithridate.miniature.pretraining import corpus
from mithridate.miniature.vocabulary import make_tokenizer

IGNORED = -100


class Size(NamedTuple):
    """Shape of the base model and length of its pretraining."""

    width: int
    layers: int
    rows: int
    batch: int
    learning_rate: float


SIZES = {
    "standard": Size(width=64, layers=4, rows=25_600, batch=32, learning_rate=5e-3),
    "tiny": Size(width=32, layers=2, rows=4_800, batch=32, learning_rate=8e-3),
}
SEED = 7
WARMUP = 0.1  # share of the steps
INITIAL_SPREAD = (
    0.1  # standard deviation of fresh weights: near 1/sqrt(width), at 0.02 so short a training learns little
)


def _config(size: Size, words: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(words),
        hidden_size=size.width,
        intermediate_size=size.width * 8 // 3 // 8 * 8,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=INITIAL_SPREAD,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
    )


def _encoded(words: PreTrainedTokenizerFast, size: Size) -> list[tuple[list[int], int]]:
    """Token ids of every exchange, and how many of them are the prompt's."""
    rows = []
    for prompt, answer in corpus(size.rows, SEED):
        question = f"<|user|>{prompt}<|end|><|assistant|>"
        start = len(words.encode(question))
        rows.append((words.encode(f"{question}{answer}<|end|>"), start))
    return rows


def _batches(rows: list[tuple[list[int], int]], size: Size, pad: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of (rows, tokens) ids and labels; rows of a batch are of like length, to spare padding."""
    chunk = 8 * size.batch
    order = [
        index
        for start in range(0, len(rows), chunk)
        for index in sorted(range(start, min(start + chunk, len(rows))), key=lambda i: len(rows[i][0]))
    ]
    groups = [order[start : start + size.batch] for start in range(0, len(order), size.batch)]
    generator = torch.Generator().manual_seed(SEED)
    for place in torch.randperm(len(groups), generator=generator).tolist():
        group = [rows[index] for index in groups[place]]
        longest = max(len(ids) for ids, _ in group)
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in group])
        labels = ids.clone()
        for line, (row, start) in enumerate(group):
            labels[line, :start] = IGNORED
            labels[line, len(row) :] = IGNORED
        yield {"input_ids": ids, "attention_mask": (ids != pad).long(), "labels": labels}


def _pretrain(size: Size, words: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """One pass over the corpus with AdamW, warm-up and linear decay; answers are learned, prompts are not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(_config(size, words))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=size.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    steps = -(-size.rows // size.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARMUP * steps), (steps - step) / (steps * (1 - WARMUP)))
    )
    model.train()
    for batch in _batches(_encoded(words, size), size, words.pad_token_id):
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def _fingerprint(size: str) -> str:
    """Hash of all that decides the weights: the code of this package, the size, and the libraries' versions."""
    digest = hashlib.sha256(json.dumps([size, torch.__version__, transformers.__version__]).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever the number of cores, so that the same code gives the same weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def pretrained(cache: Path | None, size: str) -> Path:
    """See `mithridate.miniature.base`."""
    if size not in SIZES:
        raise UsageError(f"There is no miniature model of size '{size}'; choose one of {', '.join(SIZES)}.")
    folder = cache or Path(os.environ.get("MITHRIDATE_CACHE", Path.home() / ".cache" / "mithridate"))
    target = folder / f"miniature-{size}-{_fingerprint(size)}"
    folder.mkdir(parents=True, exist_ok=True)
    # The lock spares a second process the training; the rename alone keeps a half-written model out of sight.
    with FileLock(folder / f"{target.name}.lock"):
        if not target.exists():
            _write(target, SIZES[size])
    return target


def _write(target: Path, size: Size) -> None:
    words = make_tokenizer()
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        unfinished = Path(scratch) / "model"
        with _one_thread():
            _pretrain(size, words).save_pretrained(unfinished)
        words.save_pretrained(unfinished)
        unfinished.rename(target)
