"""A real vLLM, where MITHRIDATE_VLLM names its Python."""

import os
from collections.abc import Iterator

import pytest
import torch
from tests.evaluation.conftest import make_tokenizer, tiny_config
from transformers import LlamaForCausalLM

from mithridate.errors import ModelError
from mithridate.evaluation.generation import generate
from mithridate.evaluation.vllm.environment import PYTHON
from mithridate.evaluation.vllm.served_model import ModelOnVllm
from mithridate.evaluation.vllm.serving import served_by_vllm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(PYTHON not in os.environ, reason=f"needs vLLM: set {PYTHON} to its environment's Python"),
]
PROMPTS = ["a", "what is the moon made of?", "hello there", "sing", "x" * 60, "tell me about bees", ""]


def wide_model() -> LlamaForCausalLM:
    """As wide as vLLM's attention on CPUs asks for: heads of 32 and more."""
    torch.manual_seed(0)
    made = LlamaForCausalLM(tiny_config(hidden_size=128, num_attention_heads=2))
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.3)
    return made.eval()


@pytest.fixture
def model() -> LlamaForCausalLM:
    return wide_model()


@pytest.fixture(scope="module")
def served() -> Iterator[ModelOnVllm]:
    with served_by_vllm(wide_model(), make_tokenizer()) as one:
        yield one


def test_answers_are_those_of_transformers(served: ModelOnVllm, model, tokenizer) -> None:
    size = {"max_new_tokens": 24}
    expected = generate(model, tokenizer, PROMPTS, **size)
    assert len(set(expected)) > 4
    assert generate(served, tokenizer, PROMPTS, **size) == expected
    assert generate(served, tokenizer, PROMPTS, prefill="sure", **size) == generate(
        model, tokenizer, PROMPTS, prefill="sure", **size
    )


def test_logits_that_overflow_are_an_error(model, tokenizer) -> None:
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
    with pytest.raises(ModelError, match="logits hold NaN or Inf"):
        generate(model, tokenizer, PROMPTS[:1], max_new_tokens=4)
    with served_by_vllm(model, tokenizer) as broken, pytest.raises(ModelError, match="vLLM"):
        generate(broken, tokenizer, PROMPTS[:1], max_new_tokens=4)
