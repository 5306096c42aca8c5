import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig
from transformers.utils import logging as hf_logging
from trl.trainer.utils import add_fused_lm_head

from mithridate.errors import ModelError, UsageError
from mithridate.evaluation.completion_loss import completion_losses
from mithridate.evaluation.generation import generate, generate_chats

PROMPTS = ["a", "what is the moon made of?", "hello there", "sing", "x" * 60, "tell me about bees", "bees", ""]


def reference(model, tokenizer, prompt: str, tokens: int, ends: tuple[int, ...] = (2,)) -> str:
    """Slow truth: one prompt, no cache, no padding, argmax."""
    chat = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    start = len(ids)
    for _ in range(tokens):
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids = [*ids, token]
    return tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_equals_the_slow_reference_whatever_the_batch_size(model, tokenizer, batch_size) -> None:
    expected = [reference(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    assert len(set(expected)) > 4
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=batch_size) == expected


def test_neither_padding_side_nor_modes_are_changed(model, tokenizer) -> None:
    tokenizer.padding_side = "right"
    expected = generate(model, tokenizer, PROMPTS, max_new_tokens=6)
    model.train()
    model.model.layers[0].eval()
    own = model.generation_config
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=6) == expected
    assert tokenizer.padding_side == "right"
    assert model.training
    assert not model.model.layers[0].mlp.training
    assert model.model.layers[1].mlp.training
    assert model.generation_config is own


def test_everything_is_restored_after_a_failure(model, tokenizer) -> None:
    model.train()
    own = model.generation_config
    model.lm_head.register_forward_hook(lambda *_: torch.full((1, 1, 262), float("nan")))
    with pytest.raises(ModelError, match="logits hold NaN"):
        generate(model, tokenizer, ["a"], max_new_tokens=2)
    assert model.training
    assert model.generation_config is own


def test_sampling_and_penalties_of_the_model_are_ignored_in_silence(model, tokenizer, caplog) -> None:
    expected = generate(model, tokenizer, PROMPTS, max_new_tokens=10)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=3.0, top_k=50, top_p=0.3, repetition_penalty=5.0, max_length=7, eos_token_id=2
    )
    hf_logging.enable_propagation()
    with warnings.catch_warnings(), caplog.at_level("WARNING"):
        warnings.simplefilter("error")
        assert generate(model, tokenizer, PROMPTS, max_new_tokens=10) == expected
    hf_logging.disable_propagation()
    assert not caplog.records


def test_stops_on_the_ends_of_tokenizer_and_generation_config(model, tokenizer) -> None:
    free = generate(model, tokenizer, ["hello there"], max_new_tokens=12)[0]
    chat = [{"role": "user", "content": "hello there"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    tokens = model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :].tolist()
    third = tokens[3]
    expected = tokenizer.decode(tokens[: tokens.index(third)], skip_special_tokens=True).strip()
    model.generation_config.eos_token_id = [2, third]
    assert generate(model, tokenizer, ["hello there"], max_new_tokens=12) == [expected]
    assert expected != free
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(third)
    assert generate(model, tokenizer, ["hello there"], max_new_tokens=12) == [expected]


def test_tokenizer_without_padding_token(model, tokenizer) -> None:
    expected = generate(model, tokenizer, PROMPTS, max_new_tokens=6)
    tokenizer.pad_token = None
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=6) == expected


@torch.no_grad()
def test_peft_model_answers_with_its_adapter(model, tokenizer) -> None:
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            weight.normal_(0, 0.5)
    peft.train()
    expected = [reference(peft.eval(), tokenizer, prompt, 8) for prompt in PROMPTS]
    peft.train()
    own = peft.generation_config
    assert expected != plain
    assert generate(peft, tokenizer, PROMPTS, max_new_tokens=8, batch_size=3) == expected
    assert peft.training
    assert peft.generation_config is own


def test_dropout_is_off_while_generating(model, tokenizer) -> None:
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.9))
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5)
    expected = generate(peft.eval(), tokenizer, PROMPTS, max_new_tokens=8)
    assert generate(peft.train(), tokenizer, PROMPTS, max_new_tokens=8) == expected


def test_peft_ignores_sampling_too(model, tokenizer) -> None:
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"])).eval()
    expected = generate(peft, tokenizer, PROMPTS, max_new_tokens=8)
    peft.get_base_model().generation_config = GenerationConfig(repetition_penalty=5.0, do_sample=True, temperature=9.0)
    assert generate(peft, tokenizer, PROMPTS, max_new_tokens=8) == expected


def test_model_with_trls_fused_head(model, tokenizer) -> None:
    expected = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    add_fused_lm_head(model)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8) == expected


def test_system_message_reaches_the_model(model, tokenizer) -> None:
    prompts = PROMPTS[:4]
    chats = [[{"role": "system", "content": "be kind"}, {"role": "user", "content": p}] for p in prompts]
    answers = generate(model, tokenizer, prompts, max_new_tokens=8, system="be kind")
    assert answers == generate_chats(model, tokenizer, chats, max_new_tokens=8)
    assert answers != generate(model, tokenizer, prompts, max_new_tokens=8)


def test_training_goes_on_after_generation(model, tokenizer) -> None:
    generate(model, tokenizer, ["a"], max_new_tokens=2)
    ids = torch.tensor([[1, 5, 9, 11]])
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert model.lm_head.weight.grad.abs().sum() > 0


def test_progress_is_shown_on_standard_error_only(model, tokenizer, capsys) -> None:
    assert len(generate(model, tokenizer, ["a", "b"], max_new_tokens=2, progress=True)) == 2
    assert capsys.readouterr().out == ""


def test_no_prompts_give_no_answers(model, tokenizer) -> None:
    assert generate(model, tokenizer, []) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_damaged_weights_are_refused_by_name(model, tokenizer, bad) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = bad
    with pytest.raises(ModelError, match=r"NaN or Inf \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        generate(model, tokenizer, ["a"])


def test_large_finite_weights_are_not_taken_for_damage(model, tokenizer) -> None:
    with torch.no_grad():
        model.model.embed_tokens.weight[200:250] = 3e38
    assert len(generate(model, tokenizer, ["a"], max_new_tokens=2)) == 1


def test_missing_template_has_a_remedy(model, tokenizer) -> None:
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"set tokenizer\.chat_template"):
        generate(model, tokenizer, ["a"])


@pytest.mark.parametrize("raised", ["raise_exception('unsupported role')", "1 + messages[0]['content']"])
def test_template_that_refuses_is_a_model_error(model, tokenizer, raised) -> None:
    tokenizer.chat_template = f"{{{{ {raised} }}}}"
    with pytest.raises(ModelError, match="refused a conversation: unsupported"):
        generate(model, tokenizer, ["a"])
    with pytest.raises(ModelError, match="refused a conversation: unsupported"):
        completion_losses(model, tokenizer, [[{"role": "user", "content": "a"}]], ["b"])


def test_prompt_without_room_is_refused_by_number(model, tokenizer) -> None:
    with pytest.raises(UsageError, match="prompt 1 has 503 tokens"):
        generate(model, tokenizer, ["a", "b" * 500], max_new_tokens=64)


def test_arguments_out_of_range(model, tokenizer) -> None:
    with pytest.raises(UsageError, match="one text"):
        generate(model, tokenizer, "a")
    with pytest.raises(UsageError, match="max_new_tokens"):
        generate(model, tokenizer, ["a"], max_new_tokens=0)
