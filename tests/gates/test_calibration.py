"""Thresholds keep the rate that is stated, are stored and read back, and belong to one gate."""

import json
import random

import pytest

from mithridate.errors import GateError
from mithridate.gates.binomial import upper_bound
from mithridate.gates.calibration import calibrate
from mithridate.gates.thresholds import GateThresholds
from tests.gates.gate_help import Other, Rows, Written, calibrated_gate, ramp, row, text_gate


def noise(count: int, seed: int, center: float = 0.0) -> list[dict]:
    generator = random.Random(seed)
    return [row(f"{generator.gauss(center, 1)} 0") for _ in range(count)]


def test_harmless_rows_beyond_the_threshold_keep_to_the_rate():
    gate = text_gate(Written())
    found = calibrate(gate, {str(i): noise(500, i) for i in range(4)}, false_alarms=0.02).rows[0]
    for level in found.levels:
        assert upper_bound(level.above, 2000) <= level.rate
        fresh = [float(one["response"].split()[0]) for one in noise(20_000, 99)]
        assert sum(value > level.threshold for value in fresh) / 20_000 <= level.rate
    assert [level.rate for level in found.levels] == pytest.approx([0.02, 0.004])


def test_too_few_rows_are_refused_with_their_number():
    gate = text_gate(Written())
    with pytest.raises(GateError, match=r"298 harmless rows cannot bound .* 1\.00% .* give at least 299"):
        calibrate(gate, {"a": ramp(298)})
    assert len(calibrate(gate, {"a": ramp(299)}).rows[0].levels) == 1


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(GateError, match="between 0 and 1"):
        calibrate(text_gate(), {"a": ramp(300)}, false_alarms=rate)


def test_no_upload_is_refused():
    with pytest.raises(GateError, match="needs harmless uploads"):
        calibrate(text_gate(), {})
    with pytest.raises(GateError, match="the harmless upload 'b' cannot be used: the upload holds no rows"):
        calibrate(text_gate(), {"a": ramp(300), "b": []})


def test_an_odd_harmless_upload_raises_the_threshold_however_small():
    gate = text_gate(Written())
    level = calibrate(gate, {"a": noise(3000, 0), "odd": noise(50, 1, center=6.0)}).rows[0].levels[0]
    assert level.threshold > 6.0


def test_a_signal_that_measures_the_task_does_not_transfer():
    """Every upload is another task: `written` tells tasks apart, `other` does not."""
    uploads = {
        str(task): [row(f"{task + random.Random(i).random()} {random.Random(i).random()}") for i in range(400)]
        for task in range(4)
    }
    task, steady = calibrate(text_gate(Written(), Other()), uploads).rows
    assert (task.held_out, task.transfers) == (1.0, False)
    assert steady.held_out <= 0.02
    assert steady.transfers


def test_a_task_with_more_flagged_rows_than_most_does_not_set_off_the_gate_each_time():
    """Rows that a threshold was made of lie above it more seldom than fresh ones do."""
    uploads = {str(i): noise(60, i, center=3.0 * (i == 5)) for i in range(6)}
    gate = text_gate(Written())
    found = calibrate(gate, uploads)
    gate.use(found)
    assert found.rows[0].levels[0].task_rate > found.rows[0].levels[0].rate
    fired = [gate.judge(noise(60, 1000 + i, center=3.0)).fired for i in range(40)]
    assert sum(map(bool, fired)) <= 2


def test_of_a_signal_that_is_never_raised_by_harmless_rows_few_rows_are_a_surprise():
    gate = text_gate(Written())
    gate.use(calibrate(gate, {str(i): [row("0 0")] * 300 for i in range(4)}))
    level = gate.thresholds.rows[0].levels[0]
    assert level.task_rate == pytest.approx(upper_bound(0, 1200))
    calm = [row("0 0")] * 95
    assert gate.judge([*calm, *[row("1 0")] * 5]).fired == ("written",)
    assert gate.judge([*calm, *[row("1 0")] * 2]).fired == ()


def test_uploads_of_one_row_each_are_calibrated_on():
    gate = text_gate(Written())
    assert calibrate(gate, {str(i): noise(1, i) for i in range(300)}).rows[0].levels[0].above == 0


def test_with_two_uploads_nothing_is_known_of_new_tasks():
    found = calibrate(text_gate(Written()), {"a": ramp(300), "b": ramp(300)}).rows[0]
    assert (found.held_out, found.transfers) == (None, False)


def test_a_job_signal_keeps_its_limit_unless_a_harmless_upload_exceeds_it():
    uploads = {"a": ramp(300), "b": ramp(400)}
    (kept,) = calibrate(text_gate(Written(), Rows(limit=1e3)), uploads).jobs
    (raised,) = calibrate(text_gate(Written(), Rows(limit=350)), uploads).jobs
    assert (kept.threshold, kept.basis) == (1e3, "limit")
    assert (raised.threshold, raised.basis) == (400, "largest harmless upload")


def test_thresholds_are_stored_whole(tmp_path):
    found = calibrated_gate().thresholds
    path = tmp_path / "new" / "thresholds.json"
    found.save(path)
    assert GateThresholds.load(path) == found
    assert json.loads(path.read_text())["version"] == 1
    assert "| written | rows |" in found.table()
    assert "| rows | uploads | 1e+09 | limit |" in found.table()


@pytest.mark.parametrize(("change", "why"), [
    (lambda text: "{", "no JSON"),
    (lambda text: text.replace('"version": 1', '"version": 2'), "version"),
    (lambda text: text.replace('"alpha_none"', '"x"').replace('"confidence"', '"confidense"'), "confidense"),
    (lambda text: text.replace('"threshold": 1000000000.0', '"threshold": NaN'), "thresholds of this gate"),
])  # fmt: skip
def test_damaged_thresholds_are_refused(tmp_path, change, why):
    path = tmp_path / "thresholds.json"
    calibrated_gate().thresholds.save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(GateError, match=why):
        GateThresholds.load(path)


def test_missing_thresholds_are_refused(tmp_path):
    with pytest.raises(GateError, match="cannot be read"):
        GateThresholds.load(tmp_path / "none.json")


def test_thresholds_of_another_gate_are_refused():
    found = calibrated_gate().thresholds
    with pytest.raises(GateError, match="calibrated for another gate"):
        text_gate(Written(), Rows(), thresholds=found)
    with pytest.raises(GateError, match="calibrated for another gate"):
        text_gate(Written(), Other(), Rows(limit=7), thresholds=found)
    assert text_gate(thresholds=found).thresholds == found


def test_the_order_of_uploads_does_not_matter():
    uploads = {str(i): noise(200, i) for i in range(4)}
    gate = text_gate(Written())
    assert calibrate(gate, uploads).rows == calibrate(gate, dict(reversed(uploads.items()))).rows
