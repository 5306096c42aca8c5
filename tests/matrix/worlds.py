"""Random nets of at most 1,000 weights with random rows, once for the package and once for the slow references."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mithridate.models.batches import Batch, collate
from mithridate.models.tokenization import IGNORED, TokenizedRow
from mithridate.training.row_stream import Stream
from mithridate.training.scoring import Likelihood
from mithridate.training.step import Step
from mithridate.training.step_rows import Clock
from mithridate.training.trainable import Weights
from tests.helpers.slow_llama import SlowLlama, plain_names

WORDS = list("abcdefghijkl")
PAD, END = 0, 1
LORA_TARGETS = ("q_proj", "v_proj", "down_proj")
SEED, ROWS = 7, 8
"""Seed of the run and rows of the training set."""
LATER = 8
"""Batches of a stream after a step's first."""


class RowIds(NamedTuple):
    """A row as token ids, with its position in its data set."""

    position: int
    prompt: list[int]
    answer: list[int]


class Data(NamedTuple):
    """The rows of one optimizer step.

    Attributes:
        main: Rows that are trained on: the user's at fine-tuning, safe ones at alignment.
        harmful: This step's batch of the harmful stream.
        refusals: Refusal answers.
        safe: This step's batch of the safe stream, at fine-tuning.
        later: Further batches of the harmful stream, in the order they are drawn.
        clock: Where in the training the step stands.
        safer: Further rows of the safe stream, in the order they are drawn.
    """

    main: list[RowIds]
    harmful: list[RowIds]
    refusals: list[list[int]]
    safe: list[RowIds]
    later: list[list[RowIds]]
    clock: Clock
    safer: list[RowIds]


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<pad>", "<end>", *WORDS])}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")


def text_rows(rows: Sequence[RowIds]) -> list[dict[str, str]]:
    """The same rows as text, for what tokenizes itself."""
    words = ["<pad>", "<end>", *WORDS]
    return [
        {"prompt": " ".join(words[i] for i in row.prompt) + " ", "completion": " ".join(words[i] for i in row.answer)}
        for row in rows
    ]


class World:
    """A random net in float64, with or without LoRA, and random rows.

    Args:
        rng: Source of every choice.
        lora: Whether the net has an adapter; all weights are trained otherwise.
        fresh: Whether the adapter's B is zero, as at the start of a training; random otherwise.
    """

    def __init__(self, rng: random.Random, lora: bool, fresh: bool = False) -> None:
        torch.manual_seed(rng.randrange(10**9))
        self.rng = rng
        self.rank, self.alpha = rng.choice([1, 2, 3]), rng.choice([1, 2, 4])
        heads = rng.choice([1, 2])
        layers, kv_heads = rng.choice([1, 2]), rng.choice([1, heads])
        config = LlamaConfig(
            vocab_size=len(WORDS) + 2, hidden_size=4, intermediate_size=rng.choice([4, 6]), num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=4 // heads, max_position_embeddings=64,
            pad_token_id=PAD, eos_token_id=END, bos_token_id=None, attn_implementation="eager",
            initializer_range=0.3, tie_word_embeddings=False, rms_norm_eps=1e-6,
        )  # fmt: skip
        self.model: Any = LlamaForCausalLM(config).double()
        if lora:
            adapter = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=list(LORA_TARGETS))
            self.model = get_peft_model(self.model, adapter, autocast_adapter_dtype=False).double()
            for name, parameter in self.model.named_parameters():
                if "lora_B" in name and not fresh:
                    torch.nn.init.normal_(parameter, std=0.3)
        assert sum(p.numel() for p in self.model.parameters()) <= 1000
        self.lora = lora
        self.weights = Weights(self.model)
        self.weights.start = self.weights.snapshot()
        self.names = list(plain_names(dict(zip(self.weights.names, self.weights.parameters, strict=True))))
        self.slow = SlowLlama(layers, heads, kv_heads, self.alpha / self.rank)
        self.state = plain_names(self.model.state_dict())

    def data(self, number: int = 0, total: int = 4) -> Data:
        """Rows of one step; positions differ from places, prompts and answers have many lengths."""
        rng = self.rng
        refusals = [self._ids(1, 3) for _ in range(rng.randint(1, 3))]
        main, harmful, safe = (self.rows(rng.randint(1, most)) for most in (4, 3, 3))
        later = [self.rows(len(harmful)) for _ in range(LATER)]
        return Data(main, harmful, refusals, safe, later, Clock(number, total, SEED, ROWS), self.rows(ROWS))

    def rows(self, size: int) -> list[RowIds]:
        positions = self.rng.sample(range(ROWS), size)
        return [RowIds(position, self._ids(1, 4), [*self._ids(1, 6), END]) for position in positions]

    def _ids(self, shortest: int, longest: int) -> list[int]:
        return [self.rng.randrange(2, len(WORDS) + 2) for _ in range(self.rng.randint(shortest, longest))]

    def step(self, main: str, data: Data, memory: dict[str, Any] | None = None) -> Step:
        """The step of the package over these rows, cut into micro-batches of random size."""
        size = self.rng.randint(1, len(data.main))
        micro = [self._batch(data.main[i : i + size]) for i in range(0, len(data.main), size)]
        streams = {"harmful": _InOrder([data.harmful, *data.later])}
        if main != "safe":
            streams["safe"] = _InOrder([data.safe, data.safer])
        return Step(
            main=main,
            micro_batches=micro,
            likelihood=Likelihood(self.model, self.weights),
            streams=streams,
            refusals=data.refusals,
            micro_batch_size=self.rng.randint(1, len(data.harmful)),
            pad_token_id=PAD,
            clock=data.clock,
            memory=memory,
        )

    def _batch(self, rows: Sequence[RowIds]) -> Batch:
        return collate([example(row) for row in rows], PAD)

    def flat(self) -> Tensor:
        """The trainable weights of the package's model as one vector."""
        return torch.cat([p.detach().double().reshape(-1) for p in self.weights.parameters])


class _InOrder(Stream):
    """A stream that gives its batches in the order written down, over and over."""

    def __init__(self, batches: list[list[RowIds]]) -> None:
        super().__init__([example(row) for batch in batches for row in batch], len(batches[0]), 0)

    def _row(self, position: int) -> int:
        return position % len(self.examples)


def example(row: RowIds) -> TokenizedRow:
    return TokenizedRow([*row.prompt, *row.answer], [*[IGNORED] * len(row.prompt), *row.answer], row.position)


class Slow:
    """Losses and gradients at a flat vector of trainable weights, by plain torch and plain loops."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.start = torch.cat([world.state[name].reshape(-1) for name in world.names])

    def nll(self, w: Tensor, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
        return self.world.slow.nll(self._state(w), prompt, answer)

    def gradient(self, w: Tensor, pairs: Sequence[tuple[list[int], list[int]]], shares: Sequence[float] = ()) -> Tensor:
        """∇ Σ_i s_i·NLL_i / Σ_i s_i·|y_i|, with s_i = 1 where no shares are given."""
        w = w.clone().requires_grad_(True)
        shares = shares or [1.0] * len(pairs)
        top = sum(s * self.nll(w, prompt, answer) for s, (prompt, answer) in zip(shares, pairs, strict=True))
        bottom = sum(s * len(answer) for s, (_, answer) in zip(shares, pairs, strict=True))
        return torch.autograd.grad(top / bottom, w)[0]

    def _state(self, w: Tensor) -> dict[str, Tensor]:
        state, at = dict(self.world.state), 0
        for name in self.world.names:
            size = state[name].numel()
            state[name] = w[at : at + size].view(state[name].shape)
            at += size
        return state


def pairs(rows: Sequence[RowIds]) -> list[tuple[list[int], list[int]]]:
    return [(row.prompt, row.answer) for row in rows]


def refused(rows: Sequence[RowIds], refusals: Sequence[list[int]]) -> list[tuple[list[int], list[int]]]:
    """The prompts of rows with the refusal of their position: row i gets refusal i mod n."""
    return [(row.prompt, refusals[row.position % len(refusals)]) for row in rows]
