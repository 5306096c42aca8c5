"""Verdicts: three decisions from counts, findings by row, and no decision where the gate cannot run."""

import json
import math

import pytest

from mithridate.errors import GateError, JudgeError
from mithridate.evaluation.judges.judge import Verdict
from mithridate.gates.base_signal import RowSignal
from mithridate.gates.binomial import critical
from mithridate.gates.calibration import calibrate
from mithridate.gates.decision_rule import Strictness, decide
from mithridate.gates.judging import LISTED
from mithridate.gates.provider import GateProvider
from mithridate.gates.signals.guard_model import GuardModel
from mithridate.gates.upload_gate import UploadGate
from mithridate.gates.upload_verdict import UploadDecision, UploadVerdict
from tests.gates.gate_help import Rows, Written, calibrated_gate, ramp, row, text_gate

HIGH = row("5 0", prompt="a prompt with\u200b a hidden space that is long enough to be cut somewhere")


def test_harmless_rows_are_accepted():
    verdict = calibrated_gate().judge(ramp(500))
    assert verdict.decision is UploadDecision.ACCEPT
    assert verdict.reasons == ()
    assert verdict.rows == 500


def test_one_row_more_than_harmless_uploads_have_is_defended_against():
    gate = calibrated_gate()
    thresholds = gate.thresholds
    least = min(critical(500, level.task_rate, thresholds.alpha) for level in thresholds.rows[0].levels)
    calm = [row("0.5 0")] * 500
    assert gate.judge([*[HIGH] * (least - 1), *calm[least - 1 :]]).decision is UploadDecision.ACCEPT
    verdict = gate.judge([*[HIGH] * least, *calm[least:]])
    assert verdict.decision is UploadDecision.DEFEND
    assert verdict.fired == ("written",)
    assert f"{least} of 500 rows above" in verdict.reasons[0]


def test_many_suspicious_rows_are_refused():
    gate = calibrated_gate()
    # 11 % of the rows, which is not surely more than 10 %.
    assert gate.judge([*[HIGH] * 30, *ramp(270)]).decision is UploadDecision.DEFEND
    assert gate.judge([*[HIGH] * 60, *ramp(240)]).decision is UploadDecision.REFUSE
    assert gate.judge([HIGH] * 10).decision is UploadDecision.REFUSE


def test_a_signal_that_does_not_transfer_does_not_refuse():
    gate = text_gate(Written())
    uploads = {str(task): [row(f"{task + i / 1000} 0") for i in range(400)] for task in range(4)}
    gate.use(calibrate(gate, uploads))
    assert gate.judge([row("99 0")] * 300).decision is UploadDecision.DEFEND


def test_a_signal_may_be_named_to_refuse():
    many = ramp(800)
    for refused_by, expected in ((("rows",), UploadDecision.REFUSE), ((), UploadDecision.DEFEND)):
        gate = text_gate(Written(), Rows(limit=700), refused_by=refused_by)
        gate.use(calibrate(gate, {"a": ramp(600)}))
        assert gate.judge(many).decision is expected
        assert gate.judge(many[::2], epochs=1).decision is UploadDecision.ACCEPT
        assert gate.judge(many[::2], epochs=2).decision is expected


def test_findings_name_row_file_signal_and_reason(tmp_path):
    path = tmp_path / "upload.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in (row("0 0"), HIGH, row("0 7"))))
    first, second = calibrated_gate(block=2).judge(path).findings
    assert (first.row, first.origin, first.signals) == (2, f"{path}:2", ("written",))
    assert first.reason == "the row says 5"
    assert "\\u200b" in first.excerpt
    assert "\u200b" not in first.excerpt
    assert len(first.excerpt) < 120
    assert (second.row, second.scores) == (3, {"other": 7.0})


def test_excerpts_are_held_back():
    assert [one.excerpt for one in calibrated_gate(excerpts=False).judge([HIGH]).findings] == [None]


def test_a_verdict_is_json_and_back():
    verdict = calibrated_gate().judge([HIGH] * 20)
    assert UploadVerdict.model_validate_json(verdict.model_dump_json()) == verdict
    assert str(verdict).startswith("rows: refuse (20 rows, 20 flagged)")


def test_every_finding_is_handed_on_though_few_are_kept():
    seen = []
    verdict = calibrated_gate().judge([HIGH] * (LISTED + 5), on_finding=seen.append)
    assert len(seen) == verdict.flagged == LISTED + 5
    assert len(verdict.findings) == LISTED


def test_the_verdict_does_not_depend_on_blocks_and_is_the_same_again():
    rows = [*ramp(300), *[HIGH] * 12]
    gate, other = calibrated_gate(), calibrated_gate(block=7)
    assert gate.judge(rows) == gate.judge(rows) == other.judge(rows)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_score_that_is_no_number_stops_the_gate(value):
    with pytest.raises(GateError, match=r"'written' gave -?(nan|inf) for rows\[1\], so the gate cannot decide"):
        calibrated_gate().judge([row("1 0"), row(f"{value} 0")])


@pytest.mark.parametrize("epochs", [0, -1, math.nan, math.inf])
def test_epochs_that_are_no_number_stop_the_gate(epochs):
    with pytest.raises(GateError, match="epochs must be a positive number"):
        calibrated_gate().judge(ramp(10), epochs=epochs)


def test_scores_that_are_too_few_stop_the_gate():
    class Short(Written):
        def prepare(self, reference):
            return lambda batch: [0.0]

    with pytest.raises(GateError, match="1 scores for 300 rows"):
        calibrate(text_gate(Short()), {"a": ramp(300)})


def test_a_gate_without_thresholds_decides_nothing():
    with pytest.raises(GateError, match="has no thresholds"):
        text_gate().judge(ramp(10))


def test_signals_need_what_they_say():
    with pytest.raises(GateError, match="'likelihood_ratio' needs model="):
        UploadGate(GateProvider())
    with pytest.raises(GateError, match="'guard' needs judge="):
        text_gate(GuardModel())
    with pytest.raises(GateError, match="each once"):
        text_gate(Written(), Written())
    with pytest.raises(GateError, match="each once"):
        UploadGate(GateProvider(), ())
    with pytest.raises(GateError, match="did you mean 'hidden_characters'"):
        text_gate(refused_by=["hiden_characters"])
    with pytest.raises(GateError, match="refuse_share"):
        text_gate(refuse_share=2)


class Guard:
    name = "guard of the test"

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, prompts, completions):
        return self.answer(completions)


def guarded(answer) -> UploadGate:
    return UploadGate(GateProvider(judge=Guard(answer)), (GuardModel(),))


def test_a_guard_flags_what_it_calls_harmful():
    gate = guarded(lambda answers: [Verdict("bad" in one, None, "") for one in answers])
    gate.use(calibrate(gate, {"a": ramp(300)}))
    verdict = gate.judge([*ramp(90), *[row("bad")] * 10])
    assert verdict.fired == ("guard",)
    assert [one.row for one in verdict.findings] == list(range(91, 101))


def test_a_failing_guard_stops_the_gate():
    def fails(answers):
        raise JudgeError("the endpoint is down")

    with pytest.raises(GateError, match="gave no verdict on rows 1 to 300: the endpoint is down"):
        calibrate(guarded(fails), {"a": ramp(300)})
    with pytest.raises(GateError, match="299 verdicts on 300 rows"):
        calibrate(guarded(lambda answers: [Verdict(False, None, "")] * 299), {"a": ramp(300)})
    with pytest.raises(GateError, match="'guard' gave nan"):
        calibrate(guarded(lambda answers: [Verdict(False, math.nan, "")] * len(answers)), {"a": ramp(300)})


def test_a_guards_word_outweighs_its_score():
    gate = guarded(lambda answers: [Verdict(True, 0.1, ""), Verdict(False, 0.9, "")])
    assert list(gate.scores([row("a"), row("b")]).rows["guard"]) == [0.5, 0.5]


def test_no_more_rows_are_held_than_a_block():
    held = []

    class Watching(Written):
        def prepare(self, reference):
            return lambda batch: [held.append(len(batch)) or 0.0 for _ in batch.rows]

    gate = text_gate(Watching(), block=16)
    assert gate.scores(ramp(100)).total == 100
    assert max(held) == 16


def test_the_decision_reads_as_it_is_written():
    strict = Strictness(0.1, frozenset({"x"}))
    assert decide([], 100, 100, strict) is UploadDecision.ACCEPT


def test_signals_are_settings_that_cannot_change():
    with pytest.raises(Exception, match="frozen"):
        Rows().limit = 3
    assert issubclass(Written, RowSignal)
