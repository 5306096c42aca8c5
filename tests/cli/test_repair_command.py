"""`mithridate repair` and `rescale`: the weights keep their type, and the record can be read by programs."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mithridate.errors import ModelError
from tests.cli.conftest import Called
from tests.helpers import tiny


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A folder with a base in bfloat16, and adapters on it: one in float32, one in bfloat16."""
    base = tmp_path / "base"
    tiny.model().to(torch.bfloat16).save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    for name, dtype in (("wide", torch.float32), ("narrow", torch.bfloat16)):
        model = PeftModel(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), tiny.lora())
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.normal_(std=0.1).to(dtype)
        model.save_pretrained(tmp_path / name)
    return tmp_path


def kinds(file: Path) -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(file).values()}


PANACEA = ["--method", "panacea", "--set", "radius=2"]


@pytest.mark.parametrize(
    ("model", "file", "kind"),
    [
        ("base", "model.safetensors", torch.bfloat16),
        ("wide", "adapter_model.safetensors", torch.float32),
        ("narrow", "adapter_model.safetensors", torch.bfloat16),
    ],
)
def test_weights_keep_their_type(
    call: Called, half: Path, finished: Path, capsys: pytest.CaptureFixture[str], model: str, file: str,
    kind: torch.dtype,
) -> None:  # fmt: skip
    out = half / "out"
    harmful = ["--harmful", str(finished / "harmful.jsonl")]
    assert kinds(half / model / file) == {kind}
    assert call("repair", str(half / model), "--out", str(out), *PANACEA, *harmful, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert kinds(out / file) == {kind}
    assert printed["out"] == str(out)
    assert printed["dtype"] == "bfloat16"
    assert printed["repaired"]["changed"] > 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert {key: value for key, value in manifest.items() if key != "files"} == {
        key: value for key, value in printed.items() if key != "out"
    }
    before, after = load_file(half / model / file), load_file(out / file)
    assert sum(int((before[name] != after[name]).sum()) for name in before) == printed["repaired"]["changed"]
    back = half / "back"
    assert call("rescale", str(out), str(out / "displacement.safetensors"), "0", "--out", str(back)) == 0
    restored = load_file(back / file)
    assert all(torch.equal(restored[name], before[name]) for name in before)


def test_another_type_on_purpose(call: Called, half: Path, finished: Path) -> None:
    harmful = ["--harmful", str(finished / "harmful.jsonl")]
    out = half / "out"
    assert call("repair", str(half / "base"), "--out", str(out), *PANACEA, *harmful, "--dtype", "float32") == 0
    assert kinds(out / "model.safetensors") == {torch.float32}
    assert call("repair", str(half / "base"), "--out", str(half / "no"), "--dtype", "int8") == 2


def test_compared_models_keep_their_type_too(call: Called, half: Path) -> None:
    out = half / "out"
    options = ["--method", "wise_ft", "--set", "alpha=0.5", "--aligned", str(half / "base")]
    assert call("repair", str(half / "wide"), "--out", str(out), *options) == 0
    assert kinds(out / "model.safetensors") == {torch.bfloat16}


def test_a_failed_repair_prints_no_json(
    call: Called, half: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("repair", str(half / "base"), "--out", str(half / "out"), *PANACEA, "--json") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith("mithridate: Panacea needs harmful=, the provider's harmful rows\n")
    assert not (half / "out").exists()

    def broken(*_: object, **__: object) -> None:
        raise ModelError("weights of nothing")

    monkeypatch.setattr("mithridate.cli.repair.open_model", broken)
    assert call("repair", str(half / "base"), "--out", str(half / "out"), *PANACEA, "--json") == 1
    assert capsys.readouterr().err == "mithridate: weights of nothing\n"
