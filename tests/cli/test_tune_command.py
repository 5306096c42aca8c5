"""The provider's commands: align, tune, verify and policy."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mithridate.provider.policy_file import default_text
from tests.cli.conftest import Called
from tests.provider.conftest import policy, world  # noqa: F401  # fixtures


@pytest.fixture
def policy_file(policy: dict[str, Any], tmp_path: Path) -> str:  # noqa: F811
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(policy), encoding="utf-8")
    return str(path)


def test_aligned_tuned_released_and_verified(
    call: Called,
    world: Path,  # noqa: F811
    policy_file: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    aligned, out = str(tmp_path / "aligned"), str(tmp_path / "out")
    assert call("align", str(world / "model"), "--policy", policy_file, "--out", aligned) == 0
    assert (tmp_path / "aligned" / "manifest.json").is_file()
    asked = ("tune", aligned, "--data", str(world / "user.jsonl"), "--policy", policy_file)
    assert call(*asked, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "released" in printed
    assert f"model: {out}/model" in printed
    assert call("verify", out) == 0
    assert "files are those that were judged under policy 'tiny'" in capsys.readouterr().out
    assert call("align", str(world / "model"), "--policy", policy_file, "--out", aligned) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_a_refusal_at_release_has_its_own_exit_code(
    call: Called,
    world: Path,  # noqa: F811
    policy: dict[str, Any],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    policy["release"]["harmful_score"] = 0
    path = tmp_path / "strict.yaml"
    path.write_text(yaml.safe_dump(policy), encoding="utf-8")
    asked = ("tune", str(world / "model"), "--data", str(world / "user.jsonl"), "--policy", str(path))
    assert call(*asked, "--out", str(tmp_path / "out"), "--json") == 4
    made = json.loads(capsys.readouterr().out)
    assert made["outcome"] == "refused_at_release"
    assert call("verify", str(tmp_path / "out")) == 0
    assert "refused at release: there is no model" in capsys.readouterr().out


def test_the_default_policy_is_written_with_its_comments_and_never_over_a_file(
    call: Called, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    assert call("policy", "init", str(file)) == 0
    assert file.read_text(encoding="utf-8") == default_text()
    assert call("policy", "init", str(file)) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_a_policy_is_checked_with_its_judges(
    call: Called,
    policy_file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("policy", "check", policy_file) == 0
    assert "judge refusal: plain 100 %" in capsys.readouterr().out
    assert call("policy", "check") == 0
    assert "policy 'miniature' can be used" in capsys.readouterr().out


def test_an_upload_with_faults_is_a_refusal_and_a_missing_one_an_error(
    call: Called,
    world: Path,  # noqa: F811
    policy_file: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.jsonl").write_text("{\n")
    asked = ("tune", str(world / "model"), "--policy", policy_file)
    assert call(*asked, "--data", str(tmp_path / "bad.jsonl"), "--out", str(tmp_path / "bad")) == 3
    assert "refused at upload" in capsys.readouterr().out
    assert call(*asked, "--data", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "none")) == 1
    assert "none.jsonl: found no file" in capsys.readouterr().err
    assert not (tmp_path / "none" / "decision.json").exists()
    # Options that the gate and the model would need: each is told in one sentence.
    for option, message in (("--history", "has no gate"), ("--aligned", "leave --aligned out")):
        other = str(world / "model") if option == "--history" else "miniature:base"
        out = str(tmp_path / f"out{option}")
        assert call(*asked, "--data", str(world / "user.jsonl"), "--out", out, option, other) == 2
        assert message in capsys.readouterr().err


def test_preference_pairs_need_a_policy_that_takes_them(
    call: Called,
    world: Path,  # noqa: F811
    policy_file: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("tune", str(world / "model"), "--data", str(world / "user.jsonl"), "--policy", policy_file)
    assert call(*asked, "--method", "dpo", "--beta", "0.2", "--out", str(tmp_path / "out")) == 2
    assert "policy 'tiny' takes no preference pairs" in capsys.readouterr().err
    tree = yaml.safe_load(Path(policy_file).read_text())
    tree["finetuning"]["preferences"] = {"training": tree["finetuning"]["training"]}
    Path(policy_file).write_text(yaml.safe_dump(tree))
    # These are no pairs.
    assert call(*asked, "--method", "dpo", "--beta", "0.2", "--out", str(tmp_path / "out")) == 3
    assert "key 'input'" in capsys.readouterr().out
