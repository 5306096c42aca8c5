"""Checkpoints of any size with random weights, written file by file: no model is held in memory."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.workload import HEAD, SPECIAL, Shape, make_tokenizer

INDEX = "model.safetensors.index.json"
STEP = 0.002
"""Standard deviation of what alignment, and then tuning, adds to a weight."""


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
    generator = torch.Generator().manual_seed(hash_of(name))
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    value = torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
    for _ in range(steps):
        value += torch.empty(shape, dtype=torch.bfloat16).normal_(0, STEP, generator=generator)
    return value


def hash_of(name: str) -> int:
    """A seed for a name, the same in every process."""
    return int.from_bytes(name.encode()[-7:], "little")
