"""The gate's cost is measured at the smallest size and printed as one JSON object; no timing is judged."""

import json

import pytest

from benchmarks import gate_cost
from mithridate.gates.signal_catalog import JOB_SIGNALS, OPTIONAL, ROW_SIGNALS, default_signals

SIZES = {"width": 32, "layers": 1, "vocabulary": 64, "batch": 2, "sequence": 16, "repeats": 1, "rows": 4}
SMALLEST = ["--device", "cpu", *(word for name, size in SIZES.items() for word in (f"--{name}", str(size)))]


def test_every_signal_is_in_the_catalog_once():
    names = [signal.name for signal in (*ROW_SIGNALS, *JOB_SIGNALS)]
    assert len(set(names)) == len(names)
    assert {signal.name for signal in default_signals()} == {*names} - {*OPTIONAL}
    assert all("Sees" in kind.__doc__ and "Misses" in kind.__doc__ for kind in (*ROW_SIGNALS, *JOB_SIGNALS))


@pytest.mark.slow
def test_gate_cost_measures_every_choice(capsys):
    gate_cost.main(SMALLEST)
    found = json.loads(capsys.readouterr().out)
    assert found["benchmark"] == "gate_cost"
    assert [figure["signals"] for figure in found["figures"]] == list(gate_cost.choices())
    assert all(figure["ratio"]["median"] > 0 for figure in found["figures"])
