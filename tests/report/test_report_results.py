import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mithridate.errors import DataError
from mithridate.report import load_results


def test_written_and_read_again_is_the_same(run: dict[str, Any], tmp_path: Path) -> None:
    first = load_results(run)
    path = tmp_path / "results.json"
    path.write_text(first.model_dump_json(indent=2), encoding="utf-8")
    assert load_results(path) == first
    assert len(first.variants) == len(run["variants"])


def test_keeps_keys_it_does_not_know(smallest: dict[str, Any]) -> None:
    tree = load_results({**smallest, "cluster": {"nodes": 2}}).model_dump()
    assert tree["cluster"] == {"nodes": 2}


def test_numbers_that_are_not_finite_are_written_as_null(smallest: dict[str, Any]) -> None:
    point = {"dose": 0.1, "rise": float("nan"), "harmful_loss": float("inf")}
    smallest["variants"][0]["dose_curves"] = [{"method": "antidote", "parameter": "mask_ratio", "points": [point]}]
    written = json.loads(load_results(smallest).model_dump_json())
    kept = written["variants"][0]["dose_curves"][0]["points"][0]
    assert (kept["rise"], kept["harmful_loss"]) == (None, None)


def test_a_number_as_layer_name_and_a_missing_method_are_understood(smallest: dict[str, Any]) -> None:
    smallest["variants"][0] |= {
        "posttuning": None,
        "layer_profiles": [{"method": "panacea", "layers": [0, 1], "factor_norm": [0.1, 0.2]}],
    }
    variant = load_results(smallest).variants[0]
    assert variant.posttuning == "none"
    assert variant.layer_profiles[0].layers == ["0", "1"]


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "percent for a share": ({"harmful_score": {"value": 41.0, "low": 0.4, "high": 0.5, "n": 9}}, "harmful_score.value"),
    "share not a number": (
        {"harmful_score": {"value": float("nan"), "low": 0, "high": 1, "n": 9}},
        "harmful_score.value",
    ),
    "no score": ({"harmful_score": None}, "harmful_score"),
    "interval upside down": ({"harmful_score": {"value": 0.4, "low": 0.5, "high": 0.3, "n": 9}}, "upside down"),
    "negative time": ({"cost": {"alignment": {"seconds": -1}}}, "cost.alignment.seconds"),
    "norms without layers": (
        {"layer_profiles": [{"method": "panacea", "layers": ["0"], "factor_norm": [1.0, 2.0]}]},
        "factor_norm has 2 values for 1 layers",
    ),
}


@pytest.mark.parametrize(("change", "named"), BROKEN.values(), ids=BROKEN)
def test_a_broken_part_is_named(smallest: dict[str, Any], change: dict[str, Any], named: str) -> None:
    smallest["variants"][0] |= change
    with pytest.raises(DataError) as raised:
        load_results(smallest)
    assert named in str(raised.value)
    assert "mithridate run" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_two_variants_of_one_name_are_refused(smallest: dict[str, Any]) -> None:
    smallest["variants"] *= 2
    with pytest.raises(DataError, match="two variants are named 'only'"):
        load_results(smallest)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", ":1: is not JSON"),
        (b'{"variants": [', ":1: is not JSON"),
        (b'{"variants": []}', "variants"),
        (b"[]", "top level"),
        (b'{"name": "\xff"}', "is not UTF-8 at byte 10"),
        (b"[" * 200_000, "nested too deeply"),
    ],
    ids=["empty", "cut off", "no variant", "not an object", "not UTF-8", "deep"],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        load_results(path)
    assert str(path) in str(raised.value)
    assert named in str(raised.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json: cannot be read"):
        load_results(tmp_path / "nowhere.json")


def test_reading_results_loads_neither_plotting_nor_torch() -> None:
    program = "import sys, mithridate.report.results; print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
