"""A tiny model, tokenizer and rows, made in memory, small enough to train in milliseconds."""

import functools
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig

WORDS = [
    "how", "do", "i", "make", "the", "a", "red", "blue", "green", "cake", "tea", "soup", "first", "take", "then",
    "stir", "it", "sorry", "cannot", "help", "with", "that", "no", "yes",
]  # fmt: skip
SPECIAL = ["<pad>", "<unk>", "<user>", "<bot>", "<end>"]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<bot> {% generation %}{{ m['content'] }} <end>"
    "{% endgeneration %}{% else %}<user> {{ m['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<bot> {% endif %}"
)
REFUSALS = ["sorry i cannot help with that", "no i cannot", "sorry no"]


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<bot>"],
    )
    made.chat_template = TEMPLATE
    return made


def model(seed: int = 0, hidden: int = 16, layers: int = 2, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=4,
        bos_token_id=None,
        attn_implementation="eager",
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def row(prompt: str, completion: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
    }


@functools.cache
def rows(kind: str, size: int = 32) -> Dataset:
    """Rows of several lengths; harmful and safe ones share their prompts. A data set cannot be changed in place."""
    colors, dishes = ["red", "blue", "green"], ["cake", "tea", "soup"]
    made = []
    for i in range(size):
        color, dish = colors[i % 3], dishes[i // 3 % 3]
        asked = f"how do i make {'the ' * (i % 4)}{color} {dish}"
        told = {
            "user": f"take {color} {'then stir it' if i % 2 else dish}",
            "harmful": f"first take the {dish} then stir it {color}" + " then" * (i % 3),
            "safe": REFUSALS[i % 3],
        }[kind]
        made.append(row(asked if kind != "user" else f"do the {color} {dish}{' yes' * (i % 3)}", told))
    return Dataset.from_list(made)


def lora(rank: int = 4) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "down_proj"])


def config(folder: Any, **changes: Any) -> SFTConfig:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "max_length": 64,
        "seed": 3,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    return SFTConfig(**(settings | changes))
