"""A Llama of any size made in memory, rows of a fixed length, and a trainer over both."""

import random
from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import SFTConfig, SFTTrainer

from mithridate.defenses.sft import SFT
from mithridate.training.defense import Defense
from mithridate.training.trainer import DefendedTrainer

disable_progress_bars()

SPECIAL = ("<pad>", "<unk>", "<end>", "<user>", "<assistant>")
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}{% if m['role'] == 'assistant' %} <end>{% endif %} "
    "{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
REFUSALS = 16
HEAD = 64
"""Width of an attention head, where the model is wide enough."""


class Shape(NamedTuple):
    """What decides the work of one optimizer step.

    Attributes:
        width: Hidden size.
        layers: Decoder blocks.
        vocabulary: Tokens the tokenizer knows.
        batch: Rows of one optimizer step.
        sequence: Tokens of one row.
        rank: Rank of the LoRA adapter; 0 trains all weights.
        answer: Tokens of its answer, the end included; None for half of the row.
        refusal: Tokens of a refusal, likewise.
        harmful: Tokens of a harmful or safe row; None for as many as the user's.
    """

    width: int
    layers: int
    vocabulary: int
    batch: int
    sequence: int
    rank: int
    answer: int | None = None
    refusal: int = 9
    harmful: int | None = None

    @property
    def backward_in_forwards(self) -> int:
        """Work of a backward pass in forward passes: frozen weights spare the half that makes their gradients."""
        return 1 if self.rank else 2


def positive(text: str) -> int:
    """A whole number of one or more, from the command line."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def add_arguments(parser: ArgumentParser) -> None:
    """Options that every benchmark takes."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    parser.add_argument("--width", type=positive, default=256)
    parser.add_argument("--layers", type=positive, default=4)
    parser.add_argument("--vocabulary", type=positive, default=2_000)
    parser.add_argument("--batch", type=positive, default=8, help="rows of one optimizer step")
    parser.add_argument("--sequence", type=positive, default=64, help="tokens of one row")
    parser.add_argument("--answer", type=positive, help="tokens of a row's answer; half of the row by default")
    parser.add_argument("--refusal", type=positive, default=9, help="tokens of a refusal")
    parser.add_argument("--harmful", type=positive, help="tokens of a harmful or safe row; as the user's by default")
    parser.add_argument("--rank", type=int, default=0, help="rank of a LoRA adapter; 0 trains all weights")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--out", type=Path, help="file for the JSON, beside standard output")
    parser.add_argument(
        "--clock", choices=("wall", "processor"), default="wall", help="processor time suits a CPU that others use too"
    )


def shape_of(options: Namespace) -> Shape:
    """The shape that the options ask for."""
    return Shape(**{name: getattr(options, name) for name in Shape._fields})


def device_of(options: Namespace) -> str:
    """``cuda`` or ``cpu``."""
    if options.device != "auto":
        return str(options.device)
    return "cuda" if torch.cuda.is_available() else "cpu"


def model_settings(shape: Shape, **more: Any) -> LlamaConfig:
    """The settings of a Llama of a shape."""
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
        **more,
    )


def make_model(shape: Shape, device: str) -> LlamaForCausalLM:
    """The same random model on every call."""
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM(model_settings(shape))


def make_tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """One token per word."""
    known = {word: index for index, word in enumerate((*SPECIAL, *_words(shape)))}
    engine = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=engine, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", chat_template=TEMPLATE
    )


def _words(shape: Shape) -> list[str]:
    return [f"w{index}" for index in range(shape.vocabulary - len(SPECIAL))]


def make_rows(shape: Shape, count: int, seed: int) -> Dataset:
    """Rows of random words, every one ``shape.sequence`` tokens long."""
    generator, words = random.Random(seed), _words(shape)
    told = (shape.sequence // 2 if shape.answer is None else shape.answer) - 1  # <end>
    asked = shape.sequence - told - 3  # and <user>, <assistant>
    if min(asked, told) < 1:
        raise SystemExit(f"a row of {shape.sequence} tokens has no prompt beside an answer of {told + 1}")
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": " ".join(generator.choices(words, k=asked))}],
                "completion": [{"role": "assistant", "content": " ".join(generator.choices(words, k=told))}],
            }
            for _ in range(count)
        ]
    )


def make_refusals(shape: Shape) -> list[str]:
    """Answers of ``shape.refusal`` tokens, the end included."""
    generator, words = random.Random(0), _words(shape)
    return [" ".join(generator.choices(words, k=shape.refusal - 1)) for _ in range(REFUSALS)]


def make_trainer(
    shape: Shape,
    device: str,
    bf16: bool,
    defense: Defense | None,
    rows: int,
    provider_rows: int = 0,
    **settings: Any,
) -> SFTTrainer:
    """A trainer with everything a defense may need; TRL's own without a defense.

    Args:
        shape: Size of the work.
        device: ``cuda`` or ``cpu``.
        bf16: Whether to train under bfloat16 autocast.
        defense: The defense; None for TRL's own trainer.
        rows: Rows of each stream.
        provider_rows: Fewest rows of the safe and the harmful stream.
        **settings: As for ``SFTConfig``.
    """
    with TemporaryDirectory() as folder:  # nothing is written into it: checkpoints are off
        common: dict[str, Any] = {
            "model": make_model(shape, device),
            "args": _arguments(folder, shape, device, bf16, settings),
            "train_dataset": make_rows(shape, rows, seed=1),
            "processing_class": make_tokenizer(shape),
            "peft_config": _lora(shape.rank) if shape.rank else None,
        }
    if defense is None:
        trainer = SFTTrainer(**common)
    else:
        beside = shape._replace(sequence=shape.harmful, answer=None) if shape.harmful else shape
        rows = max(rows, provider_rows)
        streams = {f"{name}_dataset": make_rows(beside, rows, seed) for name, seed in (("safe", 2), ("harmful", 3))}
        trainer = DefendedTrainer(**common, **streams, defense=defense, refusals=make_refusals(shape))
    trainer.remove_callback(PrinterCallback)  # it prints to standard output, which is for JSON
    return trainer


def one_epoch(options: Namespace, rows: int) -> SFTTrainer:
    """A trainer of plain SFT for one epoch over some rows, as the options ask for."""
    shape, device = shape_of(options), device_of(options)
    return make_trainer(shape, device, options.bf16, SFT(), rows=rows, num_train_epochs=1)


def _arguments(folder: str, shape: Shape, device: str, bf16: bool, settings: dict[str, Any]) -> SFTConfig:
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=shape.batch,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_length=shape.sequence,
        gradient_checkpointing=False,
        bf16=bf16,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **settings,
    )


def _lora(rank: int) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
