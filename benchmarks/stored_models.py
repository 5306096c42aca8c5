"""Checkpoints of any size with random weights, written file by file: no model is held in memory."""

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from zlib import crc32

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.workload import HEAD, SPECIAL, Shape, make_tokenizer

INDEX = "model.safetensors.index.json"
STEP = 0.002
"""Standard deviation of what alignment, and then tuning, adds to a weight."""
DRAWN = 1_000_003
"""Random numbers that are drawn, a prime so that no two rows of a matrix are alike."""


def settings(shape: Shape) -> LlamaConfig:
    """The settings of a Llama of a shape, in bfloat16."""
    heads = max(2, shape.width // HEAD)
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.width * 8 // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max(64, 2 * shape.sequence),
        pad_token_id=SPECIAL.index("<pad>"),
        eos_token_id=SPECIAL.index("<end>"),
        bos_token_id=None,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )


def make_checkpoints(shape: Shape, folder: Path, shard: int) -> dict[str, Path]:
    """Write a base, an aligned and a tuned checkpoint, each with a tokenizer.

    Args:
        shape: Shape of the model.
        folder: Where their folders go.
        shard: Bytes after which a new file begins.
    """
    config = settings(shape)
    with init_empty_weights():
        model = LlamaForCausalLM(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    paths = {name: folder / name for name in ("base", "aligned", "tuned")}
    for steps, path in enumerate(paths.values()):
        path.mkdir(parents=True)
        _write(shapes, path, shard, steps)
        config.save_pretrained(path)
        make_tokenizer(shape).save_pretrained(path)
    return paths


def _write(shapes: dict[str, tuple[int, ...]], path: Path, shard: int, steps: int) -> None:
    places: dict[str, str] = {}
    for number, names in enumerate(_shards(shapes, shard)):
        file = f"model-{number:05d}.safetensors"
        save_file({name: _values(name, shapes[name], steps) for name in names}, path / file, {"format": "pt"})
        places |= dict.fromkeys(names, file)
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _shards(shapes: dict[str, tuple[int, ...]], shard: int) -> Iterator[list[str]]:
    names: list[str] = []
    held = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        if names and held + size > shard:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    yield names


def _values(name: str, shape: tuple[int, ...], steps: int) -> Tensor:
    """Return a weight after some steps of the way from base to tuned; the same on every call."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    entries = math.prod(shape)
    # Drawn once and used over and over, from another place for each weight: drawing would take longer than repairing.
    start = crc32(name.encode()) % DRAWN
    value = 0.02 * _noise(start, entries)
    for step in range(steps):
        value += STEP * _noise((start + 7919 * (step + 1)) % DRAWN, entries)
    return value.view(shape)


@cache
def _drawn() -> Tensor:
    return torch.randn(DRAWN, generator=torch.Generator().manual_seed(0)).bfloat16()


def _noise(start: int, entries: int) -> Tensor:
    times = (start + entries) // DRAWN + 1
    return _drawn().repeat(times)[start : start + entries]
