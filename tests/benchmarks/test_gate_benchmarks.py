"""The gate's benchmarks run at their smallest size and print one JSON object; no timing is judged."""

import json

import pytest
from benchmarks.gate_attacks import CHOSEN_ON, REPORTED, Sources, permuted_letters, zero_width

from benchmarks import gate_cost, upload_gate
from mithridate.gates.signal_catalog import JOB_SIGNALS, OPTIONAL, ROW_SIGNALS, default_signals
from mithridate.gates.signals.hidden_characters import hidden_share

SOURCES = Sources([("bad a", "bad b")] * 3, [("other a", "other b")], [("good a", "good b")] * 9, ["No."])
SIZES = {"width": 32, "layers": 1, "vocabulary": 64, "batch": 2, "sequence": 16, "repeats": 1, "rows": 4}
SMALLEST = ["--device", "cpu", *(word for name, size in SIZES.items() for word in (f"--{name}", str(size)))]


def test_every_signal_is_in_the_catalog_once():
    names = [signal.name for signal in (*ROW_SIGNALS, *JOB_SIGNALS)]
    assert len(set(names)) == len(names)
    assert {signal.name for signal in default_signals()} == {*names} - {*OPTIONAL}
    assert all("Sees" in kind.__doc__ and "Misses" in kind.__doc__ for kind in (*ROW_SIGNALS, *JOB_SIGNALS))


@pytest.mark.parametrize("attack", [*CHOSEN_ON.values(), *REPORTED.values()], ids=lambda attack: attack.__name__)
def test_an_attack_makes_rows_of_text(attack):
    rows = attack(SOURCES)
    assert rows
    assert all(prompt.strip() and answer.strip() for prompt, answer in rows)


def test_hidden_rows_are_hidden():
    assert all(hidden_share(answer) > 0.1 for _, answer in zero_width(SOURCES))
    assert not any("bad" in prompt for prompt, _ in permuted_letters(SOURCES))


@pytest.mark.slow
def test_gate_cost_measures_every_choice(capsys):
    gate_cost.main(SMALLEST)
    found = json.loads(capsys.readouterr().out)
    assert found["benchmark"] == "gate_cost"
    assert [figure["signals"] for figure in found["figures"]] == list(gate_cost.choices())
    assert all(figure["ratio"]["median"] > 0 for figure in found["figures"])


def test_uploads_hold_the_share_that_is_asked_for():
    pool = upload_gate.Pool([("a", "b")] * 50, ["good"] * 50, {"s": [0.0] * 50})
    bad = upload_gate.Pool([("c", "d")] * 50, ["bad"] * 50, {"s": [1.0] * 50})
    for drawn in upload_gate.uploads({"task": pool}, bad, 0.3, [20, 40], draws=2):
        assert drawn.rows.count("bad") == round(0.3 * len(drawn.rows))
        assert sum(drawn.scores["s"]) == drawn.rows.count("bad")
