"""A tiny random model of each family of decoders."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.helpers import tiny

SHARED = {"vocab_size": len(tiny.SPECIAL) + len(tiny.WORDS), "pad_token_id": 0, "eos_token_id": 4, "bos_token_id": None}
LLAMA_LIKE = SHARED | {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA_LIKE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**LLAMA_LIKE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**LLAMA_LIKE)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**LLAMA_LIKE)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**LLAMA_LIKE, query_pre_attn_scalar=8)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**LLAMA_LIKE, sliding_window=None)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(**SHARED, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3)
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            **SHARED, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, word_embed_proj_dim=16, init_std=0.3, dropout=0.0,
        )
    ),
}  # fmt: skip


def family(name: str, seed: int = 0) -> Any:
    """A tiny random model of this family, dropout off."""
    torch.manual_seed(seed)
    model = FAMILIES[name]()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model
