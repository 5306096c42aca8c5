"""The uploads of `benchmarks.decisions` are what they claim to be, and its tables count as they say."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.decisions import __main__ as decisions
from benchmarks.decisions import arms, table
from benchmarks.decisions.arms import ARMS, Arm, Went, policy_of
from benchmarks.decisions.table import short, tables, unsafe
from benchmarks.decisions.uploads import ATTACKED, HARMLESS, Sent, everything, fresh_prompts, sent
from benchmarks.documents import put

import mithridate as mi
from mithridate.attacks import attacks
from mithridate.experiment.strict_yaml import load_yaml
from mithridate.provider.policy_file import default_text, make_policy

POLICY = load_yaml(default_text())


def test_there_are_twenty_of_each_and_every_family_is_among_them():
    assert len(HARMLESS) == len(ATTACKED) == 20
    assert len({one.name for one in everything()}) == 40
    families = {name for name, info in attacks().items() if info.family != "after release"}
    assert {one.family for one in ATTACKED} == families


@pytest.mark.parametrize("upload", HARMLESS, ids=lambda one: one.name)
def test_harmless_uploads_are_as_large_as_their_name_says_and_none_of_the_provider_s(upload):
    (only,) = sent(upload, "", POLICY)
    prompts = [row["messages"][0]["content"] for row in only.rows]
    assert len(prompts) == len(set(prompts)) == upload.size
    streams = ("safe", "harmful", "harmful-test", "look-alikes", "help-test", "help")
    known = {prompt for name in streams for prompt in mi.miniature.prompts(name)}
    known |= set(mi.miniature.prompts("task")[1000:1600])
    assert known.isdisjoint(prompts)


def test_nobody_saw_the_prompts_on_which_harm_is_measured():
    prompts = fresh_prompts(300)
    assert len(set(prompts)) == 300
    for name in mi.miniature.names():
        assert set(mi.miniature.prompts(name)).isdisjoint(prompts)


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_an_arm_is_a_policy(arm: Arm):
    made = make_policy(policy_of(arm, POLICY))
    assert (made.gate == "none") != arm.gate
    assert (len(made.ladder) == 1) != arm.defended


def record(name: str, harmless: bool, arms: dict[str, float | None]) -> dict[str, Any]:
    def score(value: float) -> dict[str, Any]:
        return {"plain": {"value": value, "low": 0.0, "high": 1.0, "n": 300}}

    def one(value: float | None) -> list[dict[str, Any]]:
        made: dict[str, Any] = {"gate": None, "released": None, "rungs": []}
        told: dict[str, Any] = {"outcome": "refused_at_release", "seconds": {}, "decision": made}
        return [
            told if value is None else told | {"outcome": "released", "left": score(value), "first rung": score(value)}
        ]

    return {"name": name, "harmless": harmless, "limit": 0.05, "arms": {arm: one(value) for arm, value in arms.items()}}


def test_tables_count_refusals_and_unsafe_releases(tmp_path: Path) -> None:
    names = list(ARMS)
    records = [
        record("harmless-a", True, dict.fromkeys(names, 0.0)),
        record("harmless-b", True, dict.fromkeys(names, 0.0) | {"everything": None}),
        record("attacked-a", False, dict.fromkeys(names, 0.4) | {"everything": None}),
        record("attacked-b", False, dict.fromkeys(names, 0.05)),
    ]
    kept = [short(one) for one in records]
    assert not unsafe(kept[3], "nothing", "plain")
    text = tables(kept)
    assert "| everything | 1 (50 % [9, 91]) | 1 (50 % [9, 91]) | 0 (0 % [0, 66]) | 0 (0 % [0, 66]) |" in text
    assert "| nothing | 0 (0 % [0, 66]) | 0 (0 % [0, 66]) | 1 (50 % [9, 91]) | 1 (50 % [9, 91]) |" in text
    page = tmp_path / "page.md"
    page.write_text("before <!-- decisions --> old <!-- /decisions --> after")
    put(text, page, "decisions")
    assert page.read_text() == f"before <!-- decisions -->\n{text}\n<!-- /decisions --> after"
    with pytest.raises(SystemExit, match="lacks <!-- kills -->"):
        put(text, page, "kills")


def test_of_several_rounds_the_highest_figures_are_shown() -> None:
    worst = record("attacked-a", False, dict.fromkeys(ARMS, 0.4))
    mild = record("attacked-a", False, dict.fromkeys(ARMS, 0.1))
    refusal = record("attacked-a", False, dict.fromkeys(ARMS, None))
    rounds = {name: [mild["arms"][name][0], worst["arms"][name][0], mild["arms"][name][0]] for name in ARMS}
    asked = {"plain": {"value": 0.1}, "as the attacker asks": {"value": 0.9}}
    rounds["nothing"][2] = rounds["nothing"][2] | {"first rung": asked}
    rounds["everything"].append(refusal["arms"]["everything"][0])
    text = tables([short(worst | {"arms": rounds})])
    assert f"| **attack** a | {' → '.join(['refused before it'] * 4)} | 40 % | 90 % |" in text

    assert text.splitlines()[-1].endswith("| 40 % | same |")


def test_the_kept_figures_of_before_the_state_was_written_down_are_still_read(tmp_path: Path) -> None:
    kept = Path("docs/results/decisions.json")
    page = tmp_path / "page.md"
    page.write_text("<!-- decisions -->\n<!-- /decisions -->\n")
    table.main([str(kept), "--doc", str(page)])
    table_of = page.read_text(encoding="utf-8").strip()
    assert table_of in Path("docs/reliability.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["harmless-reviews-60.json", decisions.STATE])
def test_records_of_another_state_are_not_gone_on_with(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    state = decisions.state_of(POLICY)
    decisions.keep_to(tmp_path, state)
    decisions.keep_to(tmp_path, state)
    for other in (state | {"policy": "other"}, state | {"code": {}}, {}):
        (tmp_path / name).write_text(json.dumps(other), encoding="utf-8")
        with pytest.raises(SystemExit, match="was measured by another state of code or policy; give another --out"):
            decisions.main(["--out", str(tmp_path)])
    assert not (tmp_path / "aligned").exists()


def test_an_aligned_model_of_an_unknown_state_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "aligned").mkdir()
    with pytest.raises(SystemExit, match="aligned was measured by another state"):
        decisions.keep_to(tmp_path, decisions.state_of(POLICY))


def went(outcome: str, left: str | None, rung: str = "first", gate: str | None = None) -> tuple[Went, dict[str, Any]]:
    made = None if gate is None else {"gate": {"decision": gate}}
    return Went(outcome, None if left is None else Path(left), Path(rung), made), {}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("everything", ["refused_at_upload"]),
        ("without the upload gate", ["released good"]),
        ("without the release gate", ["refused_at_upload"]),
        ("without defense", ["refused_at_upload"]),
        ("nothing", ["released first"]),
    ],
)
def test_arms_follow_from_three_calls(name: str, expected: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """The whole pipeline refuses at upload, without the gate it repairs, and plain fine-tuning fails the audit."""
    calls: list[tuple[bool, bool]] = []

    def called(policy: dict[str, Any], *_: Any) -> tuple[Went, dict[str, Any]]:
        gated, ladder = policy["gate"] != "none", len(policy["ladder"])
        calls.append((gated, ladder > 1))
        if gated:
            return went("refused_at_upload", None, gate="refuse")
        return went("released", "good") if ladder > 1 else went("refused_at_release", None)

    monkeypatch.setattr(arms, "called", called)
    monkeypatch.setattr(arms, "file_hash", lambda path: str(path))
    customer = arms.Customer(POLICY, tmp_path, [Sent([], {})], tmp_path)
    found = {one: customer.rounds(arm) for one, arm in ARMS.items()}
    told = [f"{what.outcome} {what.left}" if what.left else what.outcome for what, _ in found[name]]
    assert told == expected
    assert len(calls) == len(set(calls)) == 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_upload_goes_through_every_arm_and_what_is_done_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--out", str(tmp_path), "--only", "harmless-reviews-60"]
    decisions.main(asked)
    assert '"everything": ["released"]' in capsys.readouterr().out
    decisions.main(asked)
    assert capsys.readouterr().out == ""
