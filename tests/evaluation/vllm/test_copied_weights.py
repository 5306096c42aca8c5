"""What vLLM gets: the weights as they are, an adapter merged in, and the caller's model untouched."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from tests.evaluation.vllm.conftest import StandIn
from transformers import AutoModelForCausalLM, PreTrainedModel

from mithridate.errors import ModelError, UsageError
from mithridate.evaluation.generation import generate_ids
from mithridate.evaluation.vllm import serving
from mithridate.evaluation.vllm.serving import served_by_vllm

ENCODED = [[1, 3, 70, 80, 4], [1, 3, 90, 4], [1, 3, 99, 98, 97, 96, 4]]


def adapted(model: PreTrainedModel, **changes: Any) -> PeftModel:
    torch.manual_seed(1)
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], **changes))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return peft


def bits(model: PreTrainedModel) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def said(model: PreTrainedModel, tokenizer: Any) -> list[list[int]]:
    return generate_ids(model, tokenizer, ENCODED, max_new_tokens=8, batch_size=3)


def reloaded(model: Any, tokenizer: Any, folder: Path) -> PreTrainedModel:
    """The model that vLLM would read."""
    written = serving._written(model, tokenizer, folder)
    kind = getattr(torch, written.dtype)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=kind)


@pytest.mark.parametrize("changes", [{}, {"lora_dropout": 0.5}, {"use_dora": True}])
def test_an_adapter_is_merged_into_a_copy(model, tokenizer, tmp_path: Path, changes: dict[str, Any]) -> None:
    base = said(model, tokenizer)
    peft = adapted(model, **changes)
    peft.train()
    before, expected = bits(peft), said(peft, tokenizer)
    assert expected != base
    assert said(reloaded(peft, tokenizer, tmp_path), tokenizer) == expected
    assert all(torch.equal(a, b) for a, b in zip(before, bits(peft), strict=True))
    assert peft.training
    assert said(peft, tokenizer) == expected


def test_the_active_adapter_alone_is_served(model, tokenizer, tmp_path: Path) -> None:
    base = said(model, tokenizer)
    peft = adapted(model)
    peft.add_adapter("other", LoraConfig(r=2, target_modules=["o_proj"]))
    for name, parameter in peft.named_parameters():
        if "lora_B.other" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    first = said(peft, tokenizer)
    peft.set_adapter("other")
    second = said(peft, tokenizer)
    assert base != first != second != base
    assert said(reloaded(peft, tokenizer, tmp_path / "second"), tokenizer) == second
    peft.set_adapter("default")
    assert said(reloaded(peft, tokenizer, tmp_path / "first"), tokenizer) == first
    with peft.disable_adapter():
        assert said(reloaded(peft, tokenizer, tmp_path / "off"), tokenizer) == base


def test_a_half_precision_model_stays_one(model, tokenizer, tmp_path: Path) -> None:
    peft = adapted(model.bfloat16())
    assert serving._written(peft, tokenizer, tmp_path).dtype == "bfloat16"
    found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}


def test_what_cannot_be_written_whole_is_refused(model, tokenizer, stand_in: StandIn) -> None:
    with pytest.raises(UsageError, match=r"not torch\.float64"):
        served_by_vllm(model.double(), tokenizer).__enter__()
    prompted = get_peft_model(model.float(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    for given in (prompted, lambda: prompted):
        with pytest.raises(UsageError, match=r"an adapter of .*PROMPT_TUNING"):
            served_by_vllm(given, tokenizer).__enter__()
    with torch.no_grad():
        prompted.get_base_model().lm_head.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        served_by_vllm(prompted.get_base_model(), tokenizer).__enter__()
    assert not (stand_in.folder / "options.json").exists()


def test_several_processes_are_refused(model, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UsageError, match="start it in one process"):
        served_by_vllm(model, tokenizer).__enter__()
