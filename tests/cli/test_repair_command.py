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


@pytest.fixture
def safe(tmp_path: Path) -> str:
    """A file of safe rows."""
    rows = [
        {"prompt": r["prompt"][0]["content"], "response": r["completion"][0]["content"]} for r in tiny.rows("safe", 12)
    ]
    (tmp_path / "safe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "safe.jsonl")


REALIGN = ["--method", "realign", "--set", "learning_rate=0.01"]


def test_realign_trains_an_adapter_with_any_defense_inside(
    call: Called, finished: Path, safe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refusals are our own where none are named."""
    model, harmful = finished / "adapter", ["--harmful", str(finished / "harmful.jsonl")]
    own = tmp_path / "refusals.txt"
    own.write_text("sorry no\nno i cannot\n")
    before, ends = load_file(model / "adapter_model.safetensors"), []
    inner = ["--set", "inner=antibody_alignment", "--set", "settings={radius: 0.02}"]
    for name, more in (("sft", []), ("ours", [*inner, *harmful]), ("own", [*inner, *harmful, "--refusals", str(own)])):
        out = tmp_path / name
        assert call("repair", str(model), "--out", str(out), *REALIGN, *more, "--safe", safe, "--json") == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["repaired"]["changed"] > 0
        assert printed["repaired"]["rows_trained"] == 120
        ends.append(load_file(out / "adapter_model.safetensors"))
    assert all(not torch.equal(ends[0][name], before[name]) for name in before)
    assert any(not torch.equal(ends[1][name], ends[2][name]) for name in before)
    now = load_file(model / "adapter_model.safetensors")
    assert all(torch.equal(now[name], before[name]) for name in before)


FAULTS = [
    ([*REALIGN, "--set", "inner=boster"], "did you mean 'booster'"),
    ([*REALIGN, "--set", "inner=booster"], "Realign needs harmful="),
    (["--method", "realign"], "strength='auto' needs user="),
    ([*REALIGN, "--refusals", "no.txt"], "--refusals: realign does not read refusals at these settings; remove it"),
    ([*REALIGN, "--set", "inner=antibody_alignment", "--refusals", "no.txt"], "no.txt does not exist"),
]


@pytest.mark.parametrize(("options", "message"), FAULTS)
def test_a_realignment_that_cannot_be_done_leaves_no_folder(
    call: Called, finished: Path, safe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str],
    message: str,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    assert call("repair", str(finished / "adapter"), "--out", str(out), *options, "--safe", safe) != 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_half_precision_weights_are_realigned_in_float32_on_demand(
    call: Called, half: Path, safe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["repair", str(half / "base"), "--out", str(half / "out"), *REALIGN, "--safe", safe]
    assert call(*command) == 1
    assert "--dtype float32" in capsys.readouterr().err
    assert call(*command, "--dtype", "float32") == 0
    assert kinds(half / "out/model.safetensors") == {torch.float32}


def test_a_launcher_with_several_processes_is_refused(
    call: Called, half: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of them would write the same folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call("repair", str(half / "base"), "--out", str(half / "launched"), *PANACEA) == 2
    assert "a repair of files runs in one process, but WORLD_SIZE is above 1" in capsys.readouterr().err
    assert not (half / "launched").exists()
