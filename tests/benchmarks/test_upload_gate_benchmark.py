"""The upload gate's benchmark decides as the gate does, scores rows once, and reports every share it was asked for."""

from argparse import Namespace

import pytest
from benchmarks.gate_attacks import Attacker, Sent, families
from benchmarks.gate_rows import UNREADABLE, File, Judged, ScoredRows
from benchmarks.gate_worlds import World, rows_of

from benchmarks import gate_tables, upload_gate
from mithridate import miniature
from mithridate.gates.provider import GateProvider
from mithridate.gates.signals.hidden_characters import HiddenCharacters
from mithridate.gates.signals.repeated_rows import RepeatedRows
from mithridate.gates.upload_verdict import UploadDecision
from tests.gates.gate_help import Written, calibrated_gate, ramp, row, text_gate

PAIR = {"prompt": "say", "chosen": "1 0", "rejected": "2 0"}


class Counted(Written):
    """Counts the rows that it scores."""

    seen: list[int]

    def prepare(self, reference):
        scorer = super().prepare(reference)
        return lambda batch: self.seen.append(len(batch)) or scorer(batch)


def test_rows_are_scored_once():
    rows = ScoredRows(text_gate(Counted(seen=[])))
    first = rows.places([row("1 0"), row("2 0"), row("1 0")])
    again = rows.places([row("2 0"), row("3 0")])
    assert (first, again) == ([0, 1, 0], [1, 2])
    assert sum(rows.gate.signals[0].seen) == 3
    assert rows.scores == {"written": [1.0, 2.0, 3.0]}
    assert [one.completion[0]["content"] for one in rows.rows] == ["1 0", "2 0", "3 0"]


@pytest.mark.parametrize("bad", [0, 1, 4, 10, 60, 100])
@pytest.mark.parametrize("epochs", [1, 1e9])
def test_the_benchmark_decides_as_the_gate_does(bad, epochs):
    gate = calibrated_gate()
    upload = [*ramp(100 - bad), *([row("9 9")] * bad)]
    rows = ScoredRows(gate)
    found = rows.judged(rows.file(upload, [], epochs), gate.thresholds)
    verdict = gate.judge(upload, epochs=epochs)
    assert found.decision is verdict.decision
    assert found.fired == {one.signal for one in verdict.signals if one.fired}


def test_an_upload_that_cannot_be_read_is_refused_and_spoils_no_other():
    gate = calibrated_gate()
    rows = ScoredRows(gate)
    harmless = rows.places(ramp(50))
    file = rows.file([PAIR], harmless, 1)
    assert file.places is None
    assert rows.judged(file, gate.thresholds) == Judged(frozenset({UNREADABLE}), UploadDecision.REFUSE)
    assert gate.judge([PAIR]).decision is UploadDecision.REFUSE
    assert rows.judged(File(harmless, 1), gate.thresholds).decision is UploadDecision.ACCEPT
    assert len(rows.rows) == len(rows.scores["written"]) == 50


def test_an_attack_in_several_files_is_caught_by_its_worst_one():
    gate = calibrated_gate()
    rows = ScoredRows(gate)
    harmless, bad = (File(rows.places(given), 1) for given in (ramp(50), [row(f"{i} 9") for i in range(5, 55)]))
    found = rows.judged_all([harmless, bad, harmless], gate.thresholds)
    assert found == rows.judged(bad, gate.thresholds)
    assert found.decision is UploadDecision.REFUSE


def test_a_conversation_of_several_answers_is_an_error():
    rows = ScoredRows(text_gate(Written()))
    turns = [{"role": role, "content": "1 0"} for role in ("user", "assistant") * 2]
    with pytest.raises(ValueError, match="longer"):
        rows.places([{"messages": turns}, {"messages": turns[:2]}])
    assert rows.places([{"messages": turns[:2]}]) == [0]
    assert len(rows.rows) == len(rows.scores["written"]) == 1


def bench():
    gate = calibrated_gate()
    rows = ScoredRows(gate)
    loud = [row(f"{i} 9", "loud") for i in range(9, 49)]
    tasks = {name: rows.places(given) for name, given in {"a": ramp(80), "loud": loud, "few": ramp(10)}.items()}
    return upload_gate.Bench(rows, gate.thresholds, tasks, size=40, draws=3)


def test_rows_that_set_off_the_gate_hide_no_attack():
    one = bench()
    assert one.quiet({task: one.harmless(task) for task in one.tasks}) == ["a"]


def test_an_attack_is_drawn_for_every_task_and_once_where_nothing_hides_it():
    one = bench()
    mixed, whole = [Sent([row("7 7")] * 4, 36, 2)], [Sent([row("7 7")] * 40, 0, 2)]
    files = [parts[0] for parts in one.files([mixed], ["a"])]
    assert [len(file.places) for file in files] == [40] * 3
    assert [len({*file.places}) for file in files] == [37] * 3
    assert len({tuple(file.places) for file in files}) == 3
    assert len(list(one.files([whole, whole], ["a"]))) == 2
    assert list(one.files([mixed], [])) == []


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(upload_gate, "RATIOS", (0.02, 0.3, 1.0))
    few = {name: families()[name] for name in ("explicit", "benign_dpo", "identity_shifting", "kick_settle", "noice")}
    few |= {"ten_shot": families()["ten_shot"], "explicit_copied": families()["explicit_copied"]}
    monkeypatch.setattr(upload_gate, "families", lambda: few)
    monkeypatch.setattr(upload_gate, "default_signals", lambda: (HiddenCharacters(), RepeatedRows()))
    tasks = {f"task {number}": [(f"question {number} {i}", f"answer {i}") for i in range(120)] for number in range(6)}
    halves = ({name: tasks[name] for name in list(tasks)[start::2]} for start in (0, 1))
    attacker = Attacker(
        miniature.rows("help").select(range(60)),
        miniature.rows("attack").remove_columns("harmful").select(range(60)),
        miniature.rows("harmful-test").remove_columns("harmful"),
        "miniature",
        None,
        None,
    )
    return World(GateProvider(), tuple(halves), attacker)


def test_every_family_is_reported_at_every_share_at_which_it_exists(world):
    figures = upload_gate.figures(world, Namespace(size=50, draws=2, seeds=2))
    assert [(one["what"], one["tasks"]) for one in figures] == [
        (what, tasks) for what in ("gate", "row moderation") for tasks in ("new", "known")
    ]
    gate, moderation = figures[0], figures[2]
    shares = {family: list(found["uploads"]) for family, found in gate["caught"].items()}
    assert shares["explicit"] == ["0.02", "0.3", "1.0"]
    assert shares["kick_settle"] == ["0.3", "1.0"]
    assert shares["benign_dpo"] == ["1.0"]
    assert gate["attacks hide among"] == ["task 1", "task 3", "task 5"]
    assert gate["caught"]["explicit"]["uploads"]["0.3"]["any signal"]["n"] == 3 * 2
    assert gate["caught"]["explicit_copied"]["uploads"]["1.0"]["repeated_rows"] == {
        "value": 1.0, "low": pytest.approx(0.342, abs=1e-3), "high": 1.0, "n": 2
    }  # fmt: skip
    assert gate["caught"]["benign_dpo"]["rows"] is None
    assert gate["caught"]["benign_dpo"]["uploads"]["1.0"]["refused"]["value"] == 1
    assert "benign_dpo" not in moderation["caught"]  # its form is no matter of a row's words
    assert gate["families caught"]["looked at"]["0.3"]["any signal"]["n"] == 4
    assert gate["families caught"]["looked at"]["1.0"]["repeated_rows"]["value"] == 0.25
    assert gate["families caught"]["for the report alone"]["1.0"]["refused"]["value"] == pytest.approx(1 / 3, abs=1e-3)
    assert gate["ten rows, ten epochs"]["explicit"]["decision"] == "accept"  # no signal here looks at it

    text = gate_tables.tables({"figures": figures})
    assert "| benign_dpo | 1 | – |  | – | – | 100% | 100% |" in text
    assert "| explicit_copied * | 1 |" in text
    assert "| families for the report alone | | | | " in text
    assert "| `unreadable` | – | – | 0% [0, 39] |" in text


def test_rows_are_written_as_a_customer_writes_them():
    (written,) = rows_of([("ask", "say")])
    assert written == {"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]}
