"""A model that vLLM serves: the same call, the same answers, and nothing that only weights can give."""

import json

import pytest

import mithridate as mi
from mithridate.attacks.release_attack import ReleaseInputs
from mithridate.attacks.soft_prompt import SoftPrompt
from mithridate.errors import UsageError
from mithridate.evaluation.completion_loss import completion_losses
from mithridate.evaluation.generation import encoded_chats, generate, generate_ids

PROMPTS = ["a", "what is the moon made of?", "hello there", "sing", "x" * 60, "tell me about bees", "bees", ""]


def test_answers_are_those_of_transformers(answering, model, tokenizer) -> None:
    served = answering.served
    size = {"max_new_tokens": 12, "batch_size": 3}
    expected = generate(model, tokenizer, PROMPTS, **size)
    assert len(set(expected)) > 4
    assert generate(served, tokenizer, PROMPTS, **size) == expected
    assert generate(served, tokenizer, PROMPTS, **size) == expected
    for how in ({"system": "be kind"}, {"prefill": "sure"}):
        assert generate(served, tokenizer, PROMPTS, **size, **how) == generate(model, tokenizer, PROMPTS, **size, **how)
    assert generate(served, tokenizer, []) == []


def test_a_later_change_does_not_reach_vllm(answering, model, tokenizer) -> None:
    size = {"max_new_tokens": 12, "batch_size": 3}
    before = generate(model, tokenizer, PROMPTS, **size)
    assert generate(answering.changed, tokenizer, PROMPTS, **size) != before
    assert generate(answering.served, tokenizer, PROMPTS, **size) == before


def test_answers_end_where_transformers_ends_them(answering, model, tokenizer) -> None:
    served = answering.served
    encoded = encoded_chats(tokenizer, [[{"role": "user", "content": "hello there"}]])
    (free,) = generate_ids(model, tokenizer, encoded, max_new_tokens=12, batch_size=1)
    # A second end, which is listed in the settings of generation alone, as with many chat models.
    served.generation_config.eos_token_id = model.generation_config.eos_token_id = [2, free[5]]
    expected = [free[: free.index(free[5])]]
    assert generate_ids(model, tokenizer, encoded, max_new_tokens=12, batch_size=1) == expected
    assert generate_ids(served, tokenizer, encoded, max_new_tokens=12, batch_size=1) == expected
    served.generation_config.eos_token_id = 2


def test_the_server_is_asked_with_ids_for_ids(answering, tokenizer) -> None:
    served, notes, _ = answering
    encoded = encoded_chats(tokenizer, [[{"role": "user", "content": text}] for text in PROMPTS[:2]])
    generate(served, tokenizer, PROMPTS[:2], max_new_tokens=3)
    assert json.loads((notes / "asked.json").read_text()) == {
        "model": "model",
        "prompt": encoded,
        "max_tokens": 3,
        "temperature": 0,
        "ignore_eos": True,
        "stop_token_ids": [2],
        "return_token_ids": True,
        "logprobs": 0,
        "return_tokens_as_token_ids": True,
        "stream": True,
        "stream_interval": 2**30,
    }
    options = json.loads((notes / "options.json").read_text())
    assert (options["dtype"], options["generation_config"]) == ("float32", "vllm")


def test_scores_take_a_served_model(answering, model, tokenizer) -> None:
    served = answering.served
    size = {"max_new_tokens": 6}
    assert mi.harmful_score(served, tokenizer, PROMPTS, **size) == mi.harmful_score(model, tokenizer, PROMPTS, **size)
    assert mi.over_refusal(served, tokenizer, PROMPTS, **size) == mi.over_refusal(model, tokenizer, PROMPTS, **size)


def test_a_prompt_without_room_is_refused_here(answering, tokenizer) -> None:
    served = answering.served
    with pytest.raises(UsageError, match=r"prompt 1 has .* leaves no room"):
        generate(served, tokenizer, ["a", "b" * 500], max_new_tokens=64)


def test_what_needs_weights_refuses_a_served_model(answering, tokenizer) -> None:
    served = answering.served
    chats = [[{"role": "user", "content": "a"}]]
    with pytest.raises(UsageError, match=r"serves has no '\w+'.*give the model itself"):
        completion_losses(served, tokenizer, chats, ["b"])
    with (
        pytest.raises(UsageError, match="serves has no 'parameters'"),
        SoftPrompt().on(served, tokenizer, ReleaseInputs(harmful=[])),
    ):
        pass
    assert not hasattr(served, "parameters")
