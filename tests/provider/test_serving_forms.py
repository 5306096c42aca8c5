"""A model that is served quantized is judged quantized, and its bytes are those that were judged."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from mithridate.errors import CheckpointError, ModelError, UsageError
from mithridate.models import quantized_base, serving_forms
from mithridate.provider.hand_over import verify_release
from mithridate.provider.judged_files import MODEL
from mithridate.provider.tuning import STORE, tune

quantizes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


@quantizes
def test_an_eight_bit_model_is_judged_stored_loaded_and_verified(
    policy: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    policy["release"]["form"] = "int8"
    made = tune(str(world / "model"), str(world / "user.jsonl"), policy, out=tmp_path / "out")
    folder = tmp_path / "out" / MODEL
    assert (made.outcome, made.form) == ("released", "int8")
    assert verify_release(tmp_path / "out") == made
    assert "quantization_config" in json.loads((folder / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.model.layers[0].self_attn.q_proj.weight.dtype == torch.int8
    assert "quantized to 8 bits" in (folder / "README.md").read_text()
    # Nothing of the whole weights lies in what was judged.
    stage = next((tmp_path / "out" / STORE).glob("candidate-*"))
    assert sorted(path.name for path in stage.iterdir() if path.is_dir()) == ["model"]
    again = tune(str(world / "model"), str(world / "user.jsonl"), policy, out=tmp_path / "twice")
    assert again.comparable == made.comparable
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not what was judged"):
        verify_release(tmp_path / "out")


@quantizes
def test_a_quantized_release_cannot_be_tuned_again(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    policy["release"]["form"] = "int8"
    aligned, upload = str(world / "model"), str(world / "user.jsonl")
    tune(aligned, upload, policy, out=tmp_path / "out")
    with pytest.raises(UsageError, match="holds quantized weights, which cannot be tuned"):
        tune(str(tmp_path / "out" / MODEL), upload, policy, out=tmp_path / "more", aligned=aligned)


@quantizes
@pytest.mark.parametrize("fault", [AssertionError("N must be divisible by block_n"), ValueError("unsupported")])
def test_a_form_that_cannot_be_computed_with_is_refused_before_training(
    policy: dict[str, Any], world: Path, tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> None:
        raise fault

    monkeypatch.setattr(serving_forms, "_computes", broken)
    policy["release"]["form"] = "int4"
    with pytest.raises(ModelError, match=r"release.form int4: this model cannot be stored so and computed with"):
        tune(str(world / "model"), str(world / "user.jsonl"), policy, out=tmp_path / "out")
    assert not list((tmp_path / "out" / STORE).glob("finetuning-*"))
    assert not (tmp_path / "out" / "decision.json").exists()


def test_without_the_library_the_form_is_refused(
    policy: dict[str, Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_base.importlib.util, "find_spec", lambda _: None)
    policy["release"]["form"] = "int8"
    with pytest.raises(UsageError, match=r"needs bitsandbytes; install mithridate\[bitsandbytes\]"):
        tune(str(world / "model"), str(world / "user.jsonl"), policy, out=tmp_path / "out")
