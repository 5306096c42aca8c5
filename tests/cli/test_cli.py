"""The command line as a user meets it: tables, exit codes, one sentence per error."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mithridate.attacks import attacks
from mithridate.defenses.registry import methods
from mithridate.files import file_hash
from tests.cli.conftest import Called


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['mithridate', '--help']\n"
        "from mithridate.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'trl', 'pydantic', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_methods_lists_every_registered_defense(call: Called, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("methods", "--json") == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed.keys() == methods().keys()
    assert listed["antibody_alignment"]["passes"] == {"forward": 4, "backward": 4}
    assert call("methods") == 0
    assert "antibody_alignment" in capsys.readouterr().out


def test_attacks_lists_every_registered_attack(call: Called, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("attacks", "--json") == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed.keys() == attacks().keys()
    assert listed["noice"]["family"] == "harmless-looking"
    assert listed["noice"]["constants"]["learning_rate"] == 2e-5
    assert call("attacks") == 0
    assert "refusal_ablation" in capsys.readouterr().out


def test_check_names_each_bad_row(
    call: Called, capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path
) -> None:
    assert call("check", str(finished / "harmful.jsonl")) == 0
    assert "9 rows" in capsys.readouterr().out
    measured = ["--model", str(finished / "base"), "--max-length", "14"]
    assert call("check", str(finished / "harmful.jsonl"), *measured) == 0
    assert "within 14 tokens: 9 answers are cut, 0 rows are lost" in capsys.readouterr().out
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a", "response": ""}\nnonsense\n')
    assert call("check", str(bad)) == 1
    shown = capsys.readouterr().err
    assert f"{bad}:2" in shown
    assert f"{bad}:3" in shown
    assert "2 faults" in shown


def test_repair_rescale_and_evaluate_a_finished_adapter(
    call: Called, capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path
) -> None:
    adapter, harmful = str(finished / "adapter"), str(finished / "harmful.jsonl")
    out = tmp_path / "repaired"
    options = ["--method", "panacea", "--set", "radius=0.5", "--harmful", harmful]
    assert call("repair", adapter, "--out", str(out), *options) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["repaired"]["distance"] == pytest.approx(0.5, rel=1e-6)
    assert file_hash(out / "adapter_model.safetensors") != file_hash(finished / "adapter/adapter_model.safetensors")
    assert call("repair", adapter, "--out", str(out), *options) == 2  # nothing is overwritten
    back = tmp_path / "back"
    assert call("rescale", str(out), str(out / "displacement.safetensors"), "0", "--out", str(back)) == 0
    assert file_hash(back / "adapter_model.safetensors") == file_hash(finished / "adapter/adapter_model.safetensors")
    capsys.readouterr()
    assert call("evaluate", str(out), "--prompts", harmful, "--max-new-tokens", "4", "--json") == 0
    score = json.loads(capsys.readouterr().out)["harmful_score"]
    assert score["n"] == 9
    assert score["low"] <= score["value"] <= score["high"]


def test_repair_compares_with_other_models(
    call: Called, capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path
) -> None:
    """All of the way back to the aligned model leaves that model, merged."""
    adapter, base, out = str(finished / "adapter"), str(finished / "base"), tmp_path / "back"
    options = ["--method", "wise_ft", "--set", "alpha=0"]
    assert call("repair", adapter, "--out", str(out), *options) == 1
    assert "needs aligned=, the model before fine-tuning" in capsys.readouterr().err
    assert call("repair", adapter, "--out", str(out), *options, "--aligned", base) == 0
    aligned, back = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (base, out))
    assert all(float((aligned[name] - tensor).abs().max()) < 1e-6 for name, tensor in back.items())
    assert json.loads((out / "manifest.json").read_text())["references"] == {"aligned": base, "base": None}
    further = tmp_path / "further"
    options = ["--method", "resta", "--set", "strength=0.5", "--aligned", adapter, "--base", base]
    assert call("repair", base, "--out", str(further), *options) == 0
    moved = AutoModelForCausalLM.from_pretrained(further).state_dict()
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    for name, tensor in tuned.state_dict().items():
        assert float((aligned[name] + 0.5 * (tensor - aligned[name]) - moved[name]).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "none.yaml"], 2, "none.yaml does not exist"),
        (["evaluate", "./nowhere", "--prompts", "x.jsonl"], 1, "x.jsonl"),
        (["evaluate", "m", "--prompts", "x", "--judge", "oracle"], 2, "--judge is 'oracle'"),
        (["evaluate", "m", "--prompts", "x", "--kind", "best"], 2, "--kind is 'best'"),
        (["repair", "m", "--out", "o", "--method", "sft"], 2, "'sft' does not act at the stage posttuning"),
        (["repair", "m", "--out", "o", "--set", "radius"], 2, "must be name=value"),
        (["repair", "./nowhere", "--out", "o"], 1, "not a model folder"),
        (["unknown"], 2, "No such command"),
        (["chek", "x"], 2, "No such command 'chek'. Did you mean 'check'?; see mithridate --help"),
        (["check"], 2, "Missing argument 'file'; see mithridate check --help"),
        (["check", "x", "--modle", "m"], 2, "No such option: --modle; did you mean --model?; see mithridate check"),
        (["check", "x", "--max-length", "0"], 2, "it must be greater than or equal to 1; see mithridate check --help"),
        (["check", "x", "--max-length", "9"], 2, "--max-length has no effect without --model"),
        (["check", "x", "--template", "alpaca"], 2, "--template has no effect without --model"),
        (["run", "a", "b"], 2, "(b); see mithridate run --help"),
        (["run", "."], 2, ". is a folder; give a YAML file of settings"),
        (["repair", "m", "--out", "o", "--method", "panaceaa"], 2, "did you mean 'panacea'?"),
        (["repair", "m", "--out", "o", "--set", "radus=1"], 2, "panacea: unknown key 'radus'; did you mean 'radius'?"),
        (["repair", "m", "--out", "o", "--set", "radius=-1"], 2, "panacea: radius: must be greater than or equal to 0"),
        (["repair", "m", "--out", "o", "--set", "radius=["], 2, "--set radius: '[' is not a YAML value"),
        (["repair", "m", "--out", "o", "--set", "trim=0.1", "--set", "trim=0.2"], 2, "--set trim is given twice"),
        (["repair", "m", "--out", "o", "--set", "method=lox"], 2, "name the method with --method"),
        (["evaluate", "m", "--prompts", "x", "--judge", "refusl"], 2, "did you mean 'refusal'?"),
        (["evaluate", "m", "--prompts", "x", "--kind", "lable"], 2, "did you mean 'label'?"),
        (["evaluate", "m", "--prompts", "x", "--kind", "exact"], 2, "--kind exact has no effect without --task"),
        (["rescale", "m", "d", "far", "--out", "o"], 2, "see mithridate rescale --help"),
    ],
)
def test_errors_are_one_sentence(
    call: Called,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert shown.count("\n") == 1
    assert not list(tmp_path.iterdir())  # nothing half written


GARBAGE = {
    "bytes": bytes(range(256)) * 20,
    "line": b"x" * 3_000_000,
    "depth": b"[" * 200_000,
    "nothing": b"",
    "object": b'{"a": 1}',
    "list": b'["a"]',
    "surrogate": b'{"prompt": "\\ud800", "response": "r"}',
}


@pytest.mark.parametrize("case", [*GARBAGE, "folder", "loop"])
def test_garbage_in_place_of_a_file_is_a_sentence(
    call: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if case == "folder":
        Path("in").mkdir()
    elif case == "loop":
        Path("in").symlink_to("in")
    else:
        Path("in").write_bytes(GARBAGE[case])
    tail = ["--out", "out", "--harmful", "in"]
    for command, code in (
        (["check", "in"], 1), (["run", "in"], 2),
        (["repair", "miniature:base", *tail], 1), (["evaluate", "miniature:base", "--prompts", "in"], 1),
    ):  # fmt: skip
        assert call(*command) == code, command
        shown = capsys.readouterr().err
        assert "in" in shown
        assert "Traceback" not in shown
    assert not Path("out").exists()


def test_check_leaves_keys_out_on_purpose(call: Called, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("instruction,output,note\nCount.,1,mine\n")
    assert call("check", str(path)) == 1
    assert f"{path}:2: found key 'note' in a row of format Alpaca" in capsys.readouterr().err
    assert call("check", str(path), "--ignore", "note") == 0
    assert "1 rows, format Alpaca" in capsys.readouterr().out


def test_the_version_and_short_help(call: Called, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"mithridate {importlib.metadata.version('mithridate')}\n"
    for command in ([], ["run"], ["methods"], ["evaluate"]):
        assert call(*command, "-h") == 0
        short = capsys.readouterr().out
        assert call(*command, "--help") == 0
        assert capsys.readouterr().out == short


RESUMED = "mithridate: stopped; finished stages are kept, run the same command again to resume\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["methods"], "mithridate: stopped\n"),
        (["run", "x.yaml"], RESUMED),
        (["redteam", "x.yaml"], RESUMED),
        (["align", "miniature:base", "--out", "x"], RESUMED),
        (["tune", "x", "--data", "x.jsonl", "--out", "y"], RESUMED),
    ],
)
def test_ctrl_c_is_a_sentence(
    call: Called,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    said: str,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"mithridate.cli.{command[0]}.command", interrupted)
    assert call(*command) == 130
    shown = capsys.readouterr()
    assert shown.err.lstrip("\n") == said
    assert shown.out == ""


def test_a_file_name_that_is_no_text_can_be_printed(tmp_path: Path) -> None:
    code = "import sys; from mithridate.cli.main import main; sys.argv[1:] = ['check', 'a\\udcff.jsonl']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "a\\udcff.jsonl: found no file" in done.stderr
