"""Each benchmark runs at its smallest size and prints one JSON object; no timing is judged."""

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest
from benchmarks.measure import report
from benchmarks.workload import Shape

from benchmarks import big_checkpoint, big_checkpoint_table, repair_cost, scale, step_cost
from mithridate.defenses.registry import methods
from mithridate.repair.post_tuning import Repair
from mithridate.training.defense import Defense

SIZES = {"width": 32, "layers": 1, "vocabulary": 64, "batch": 2, "sequence": 16, "repeats": 1}
SMALLEST = ["--device", "cpu", *(word for name, size in SIZES.items() for word in (f"--{name}", str(size)))]


def printed(benchmark, capsys, *options):
    benchmark.main([*SMALLEST, *options])
    content = json.loads(capsys.readouterr().out)
    assert content["benchmark"] == benchmark.__name__.rpartition(".")[2]
    assert content["settings"]["width"] == 32
    assert content["settings"]["device"] == content["machine"]["device"] == "cpu"
    assert {"mithridate", "torch", "trl"} <= content["versions"].keys()
    for figure in (figure for figure in content["figures"] if "refused" not in figure):
        for spread in (figure["seconds"], figure["ratio"]):
            assert 0 < spread["min"] <= spread["median"] <= spread["max"] < math.inf
        assert figure["peak_bytes"] > 0
        assert figure["peak_ratio"] > 0
    return content["figures"]


def test_a_report_takes_paths_among_its_settings_and_goes_into_its_file(capsys, tmp_path):
    options = Namespace(recipe=Path("recipes/methods.yaml"), out=tmp_path / "figures.json")
    report("plan_error", options, "cpu", [{"measured": 1.0}])
    content = json.loads(options.out.read_text())
    assert content == json.loads(capsys.readouterr().out)
    assert content["settings"] == {"recipe": "recipes/methods.yaml", "device": "cpu"}


def test_step_cost_knows_every_training_method():
    training = {name for name, info in methods().items() if issubclass(info.cls, Defense)}
    assert set(step_cost.everything()) == {"trl", *training}


@pytest.mark.slow
def test_step_cost_measures_methods_and_says_which_cannot_act(capsys):
    chosen = ["sft", "antibody_alignment", "antibody_tuning", "salora"]
    *figures, refused = printed(step_cost, capsys, "--steps", "1", "--methods", *chosen)
    assert refused["method"] == "salora"
    assert "the model has none; pass peft_config" in refused["refused"]
    assert {figure["method"] for figure in figures} == {"trl", *chosen} - {"salora"}
    expected = {figure["method"]: figure["expected_ratio"] for figure in figures}
    # All weights are trained, so a backward pass counts as two forward passes.
    assert expected["trl"] == expected["sft"] == 1
    assert expected["antibody_alignment"] == 4
    assert expected["antibody_tuning"] == pytest.approx(4 / 3, abs=1e-3)


def test_frozen_weights_make_a_backward_pass_as_cheap_as_a_forward_pass():
    shape = Shape(width=32, layers=1, vocabulary=64, batch=2, sequence=16, rank=2)
    assert step_cost.passes("antibody_tuning", shape) == {"forward": 2, "backward": 1, "expected_ratio": 1.5}


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "2"])
def test_repair_cost_knows_every_repair(rank, capsys):
    figures = printed(repair_cost, capsys, "--rows", "12", "--rank", rank)
    assert {figure["method"] for figure in figures} == {
        name for name, info in methods().items() if issubclass(info.cls, Repair)
    }
    tried = {figure["method"]: figure["doses_tried"] for figure in figures if "strength" in figure["settings"]}
    assert tried["antidote"] > 0
    assert tried["panacea"] > 0


@pytest.mark.slow
def test_scale_varies_one_dimension_at_a_time(capsys):
    kept = ["--depths", "--batches", "--uploads", "4", "8", "--harmful-rows"]
    scale.main([*SMALLEST, "--rank", "2", "--widths", "16", "--sequences", "24", *kept, "--steps", "1", "--rows", "4"])
    found = json.loads(capsys.readouterr().out)["figures"]
    figures = [figure for figure in found if "exponents" not in figure]
    every = [*scale.TRAINING, scale.REPAIR]
    expected = [(varied, size, method) for varied, size in (("width", 16), ("sequence", 24)) for method in every]
    expected += [("rows", size, method) for size in (4, 8) for method in scale.TRAINING]
    assert [(figure["varied"], figure["size"], figure["method"]) for figure in figures] == expected
    assert all(figure["seconds"]["min"] > 0 and figure["peak_bytes"] > 0 for figure in figures)
    fits = [figure for figure in found if "exponents" in figure]
    assert [fit["method"] for fit in fits] == list(scale.TRAINING)
    assert all(fit["operations"]["exponent"] == pytest.approx(1, abs=0.05) for fit in fits)


@pytest.mark.slow
def test_big_checkpoint_repairs_what_does_not_fit_into_memory(capsys, tmp_path):
    """The three models together are several times the memory that the repair gets beyond Python and its libraries."""
    options = ["--limit", "0.15", "--shard", "0.03", "--methods", "wise_ft", "--rows", "1", "--folder", str(tmp_path)]
    sizes = ["--width", "512", "--layers", "40", "--vocabulary", "1000"]
    big_checkpoint.main([*SMALLEST, *sizes, *options])
    content = json.loads(capsys.readouterr().out)
    (figure,) = content["figures"]
    assert "refused" not in figure
    assert not figure["fits_in_memory"]
    assert 3 * figure["model_bytes"] > 4 * figure["limit_bytes"]
    assert 0 < figure["own_bytes"] < figure["limit_bytes"]
    assert figure["ratio"]["median"] > 0
    assert 0 < figure["rest_seconds"]["median"] < figure["seconds"]["median"]
    assert figure["opening_seconds"]["median"] > 0
    assert figure["calibration_seconds"]["max"] == figure["algebra_seconds"]["max"] == 0
    assert figure["models_read"] == 2
    assert "| `wise_ft` | 2 | " in big_checkpoint_table.table(content)
    assert list(tmp_path.iterdir()) == []


def test_the_page_on_big_checkpoints_holds_the_kept_figures():
    kept = json.loads(Path("docs/results/big_checkpoint.json").read_text(encoding="utf-8"))
    assert big_checkpoint_table.table(kept) in Path("docs/big-checkpoints.md").read_text(encoding="utf-8")
    by_shard = {name for name, info in methods().items() if getattr(info.cls, "by_shard", False)}
    assert {figure["method"] for figure in kept["figures"]} <= by_shard
