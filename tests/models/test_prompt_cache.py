"""Refusals scored behind the keys and values of their prompts have the likelihoods of whole rows."""

import pytest
import torch
from peft import LoHaConfig, LoraConfig, OFTConfig, PromptTuningConfig, get_peft_model
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

import mithridate as mi
from mithridate.models.batches import collate, with_completions
from mithridate.models.fused_head import scored
from mithridate.models.modes import drops
from mithridate.models.prompt_cache import prompt_cache
from mithridate.models.tokenization import IGNORED, TokenizedRow
from tests.families.models import FAMILIES, LLAMA_LIKE, SHARED, family
from tests.helpers.training import distance, trainer

REFUSALS = [[7, 8, 9, 4], [10, 4], [11, 12, 13, 14, 15, 4]]
PLAIN = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attention_dropout": 0.0}


def rows(*shapes):
    """Rows of some prompt and answer lengths."""
    drawn = torch.Generator().manual_seed(0)
    found = []
    for number, (prompt, answer) in enumerate(shapes):
        ids = torch.randint(5, 29, (prompt + answer,), generator=drawn).tolist()
        found.append(TokenizedRow(ids, [*[IGNORED] * prompt, *ids[prompt:]], number))
    return collate(found, 0)


UNEVEN = ((6, 3), (2, 9), (1, 2), (9, 1))


def undisturbed(name):
    """A model of a family that draws no masks."""
    model = family(name)
    for module in model.modules():
        for rate in PLAIN:
            if hasattr(module, rate):
                setattr(module, rate, 0.0)
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0
    return model.train()


PASSES = [(name, attention) for name in FAMILIES for attention in ("eager", "sdpa")]
PASSES.remove(("gemma2", "sdpa"))  # which transformers lacks


@pytest.mark.parametrize(("name", "attention"), PASSES)
def test_refusals_behind_kept_prompts_have_the_likelihoods_of_whole_rows(name, attention):
    model = undisturbed(name)
    model.set_attn_implementation(attention)
    batch = rows(*UNEVEN)
    other = with_completions(batch, REFUSALS, 0)
    cache = prompt_cache(model, batch, other)
    assert cache is not None
    own, plain = scored(model, batch, further=cache.first), scored(model, batch)
    torch.testing.assert_close(own.log_probs, plain.log_probs)
    with torch.no_grad():
        whole = scored(model, other)
        behind = scored(model, cache.completions, further=cache.second)
    assert cache.completions["input_ids"].shape[1] == 7 < other["input_ids"].shape[1]
    assert torch.equal(behind.label_mask.sum(dim=1), whole.label_mask.sum(dim=1))
    torch.testing.assert_close(behind.log_probs.sum(dim=1), whole.log_probs.sum(dim=1), atol=1e-4, rtol=1e-5)
    own.log_probs.sum().backward()  # what was kept is no part of the second pass's graph
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_changed_prompts_change_the_refusals_likelihood():
    """That is, the kept prompts are looked at."""
    model, found = undisturbed("llama"), []
    for batch in (rows((5, 3)), rows((6, 2))):
        other = with_completions(batch, REFUSALS, 0)
        cache = prompt_cache(model, batch, other)
        scored(model, batch, further=cache.first)
        other_ids = cache.completions | {"input_ids": cache.completions["input_ids"].clone()}
        other_ids["input_ids"][:, 0] = 5  # the last token of the prompt is the same for both
        with torch.no_grad():
            found.append(float(scored(model, other_ids, further=cache.second).log_probs.sum()))
    assert abs(found[0] - found[1]) > 1e-3


ROTARY = {"rope_theta": 10000.0, "factor": 2.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}


def one_that_counts(case):
    """A model whose keys depend on the other tokens of a pass, from 12 tokens on."""
    if case == "local layers":
        kinds = {"attention_types": [[["global", "local"], 1]], "window_size": 12, "num_heads": 2, "num_layers": 2}
        rates = {"attention_dropout": 0.0, "embed_dropout": 0.0, "resid_dropout": 0.0}
        return GPTNeoForCausalLM(GPTNeoConfig(**SHARED, **kinds, **rates, hidden_size=16, max_position_embeddings=64))
    if case == "longrope":
        stretched = ROTARY | LONG | {"original_max_position_embeddings": 12}
        return Phi3ForCausalLM(Phi3Config(**LLAMA_LIKE, rope_parameters=stretched, original_max_position_embeddings=12))
    shorter = LLAMA_LIKE | {"max_position_embeddings": 13}
    return LlamaForCausalLM(LlamaConfig(**shorter, rope_parameters=ROTARY | {"rope_type": "dynamic"}))


@pytest.mark.parametrize("case", ["local layers", "longrope", "dynamic"])
def test_prompts_are_kept_only_up_to_the_length_from_which_a_model_counts(case):
    model = one_that_counts(case).train()
    short, long = rows((3, 2), (5, 1)), rows((3, 2), (9, 6))
    assert prompt_cache(model, long, with_completions(long, REFUSALS, 0)) is None
    other = with_completions(short, REFUSALS, 0)
    cache = prompt_cache(model, short, other)
    scored(model, short, further=cache.first)
    with torch.no_grad():
        whole, behind = scored(model, other), scored(model, cache.completions, further=cache.second)
    torch.testing.assert_close(behind.log_probs.sum(dim=1), whole.log_probs.sum(dim=1), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_a_long_prompt_beside_a_long_refusal_asks_for_no_position_beyond_the_last(name):
    model, batch = undisturbed(name), rows((62, 2), (3, 1))
    other = with_completions(batch, [REFUSALS[2], REFUSALS[2]], 0, max_length=64)
    cache = prompt_cache(model, batch, other)
    assert int(cache.second["position_ids"].max()) <= 63
    scored(model, batch, further=cache.first)
    with torch.no_grad():
        whole, behind = scored(model, other), scored(model, cache.completions, further=cache.second)
    torch.testing.assert_close(behind.log_probs.sum(dim=1), whole.log_probs.sum(dim=1), atol=1e-4, rtol=1e-5)


def test_two_active_adapters_are_both_looked_through():
    model = get_peft_model(undisturbed("llama"), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    batch = rows(*UNEVEN)
    other = with_completions(batch, REFUSALS, 0)
    cache = prompt_cache(model.train(), batch, other)
    scored(model, batch, further=cache.first)
    with torch.no_grad():
        whole, behind = scored(model, other), scored(model, cache.completions, further=cache.second)
    torch.testing.assert_close(behind.log_probs.sum(dim=1), whole.log_probs.sum(dim=1), atol=1e-4, rtol=1e-5)


def refused(case):
    """A model and rows that need whole rows."""
    model, batch = undisturbed("llama"), rows(*UNEVEN)
    if case == "dropout":
        model = get_peft_model(model, LoraConfig(r=2, lora_dropout=0.1, target_modules="all-linear"))
    elif case == "dropout of attention":
        model.model.layers[1].self_attn.attention_dropout = 0.1
    elif case == "activations computed again":
        model.gradient_checkpointing_enable()
    elif case == "virtual tokens":
        tuned = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        model = get_peft_model(model, tuned)
    elif case == "padded on the left":
        batch = {name: tensor.flip(1) if tensor.dim() > 1 else tensor for name, tensor in batch.items()}
    elif case == "prompts of one token":
        batch = rows((1, 3), (1, 2))
    elif case == "no keys and values":
        model = MambaForCausalLM(MambaConfig(**SHARED, hidden_size=16, num_hidden_layers=1, state_size=4))
    elif case == "a short window":
        model = MistralForCausalLM(MistralConfig(**LLAMA_LIKE, sliding_window=8))
    elif case == "an adapter from some words on":
        words = batch["input_ids"][0, 2:4].tolist()
        model = get_peft_model(
            model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", alora_invocation_tokens=words)
        )
    elif case == "places counted":
        model.config.attn_temperature_tuning = True
    elif case == "another attention":
        model.config._attn_implementation = "flex_attention"
    return model.train(), batch


CASES = ("dropout", "dropout of attention", "activations computed again", "virtual tokens", "padded on the left",
         "prompts of one token", "no keys and values", "a short window", "another attention",
         "an adapter from some words on", "places counted")  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_whole_rows_are_passed_where_prompts_cannot_be_kept(case):
    model, batch = refused(case)
    other = with_completions(rows(*UNEVEN) if case == "padded on the left" else batch, REFUSALS, 0)
    assert prompt_cache(model, batch, other) is None


def test_dropout_counts_in_training_only():
    model = get_peft_model(undisturbed("llama"), LoraConfig(r=2, lora_dropout=0.1, target_modules="all-linear"))
    assert drops(model)
    assert not drops(model.eval())


@pytest.mark.parametrize("config", [
    LoHaConfig(r=2, target_modules=["q_proj"], rank_dropout=0.1),
    LoHaConfig(r=2, target_modules=["q_proj"], module_dropout=0.1),
    OFTConfig(r=2, oft_block_size=0, target_modules=["q_proj"], module_dropout=0.1),
])  # fmt: skip
def test_dropout_of_other_adapters_counts_as_well(config):
    model = get_peft_model(undisturbed("llama"), config).train()
    assert drops(model)
    assert not drops(model.eval())


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_antibody_trains_the_same_and_leaves_the_prompts_out(micro_batches, tmp_path, monkeypatch):
    found, seen = [], []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr("mithridate.training.scoring.prompt_cache", lambda *_: None)
        shape = {"per_device_train_batch_size": 4 // micro_batches, "gradient_accumulation_steps": micro_batches}
        made = trainer(mi.AntibodyTuning(), tmp_path / str(kept), max_steps=3, **shape)
        tokens = []
        made.model.get_input_embeddings().register_forward_pre_hook(
            lambda _, args, tokens=tokens: tokens.append(args[0].shape[1])
        )
        made.train()
        found.append({name: weight.clone() for name, weight in made.model.state_dict().items()})
        seen.append(tokens)
    assert distance(*found) <= 1e-5
    assert seen[0][::2] == seen[1][::2], "rows with their own answers"
    assert all(behind < whole for behind, whole in zip(seen[0][1::2], seen[1][1::2], strict=True))
