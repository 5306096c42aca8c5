"""Two results side by side: changes beyond the noise, and nothing else, are called changes."""

import copy
import json

import pytest

from benchmarks import compare, step_cost


def spread(median, half):
    return {"min": median - half, "median": median, "max": median + half}


def figure(method, ratio, seconds=1.0, peak=1000, **sizes):
    found = {"method": method, "ratio": spread(ratio, 0.05), "seconds": spread(seconds, 0.05), "peak_bytes": peak}
    return found | sizes


@pytest.fixture
def before():
    return {
        "benchmark": "step_cost", "settings": {"rank": 8}, "machine": {"device": "cpu", "cores": 2, "threads": 1},
        "figures": [figure("sft", 1.0), figure("lisa", 1.2), {"method": "tar", "refused": "why"}],
    }  # fmt: skip


def verdicts(before, after):
    return {(change.name, change.unit): change.verdict for change in compare.compare(before, after)}


def test_nothing_changed_is_within_noise(before):
    assert set(verdicts(before, copy.deepcopy(before)).values()) == {"within noise"}


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.5, "slower"), (0.9, "faster"), (1.28, "within noise"), (1.14, "within noise")]
)
def test_ranges_must_lie_apart(before, ratio, verdict):
    after = copy.deepcopy(before)
    after["figures"][1] = figure("lisa", ratio)
    found = verdicts(before, after)
    assert found["lisa", "ratio"] == verdict
    assert found["sft", "ratio"] == "within noise"


def test_a_change_smaller_than_the_noise_of_sft_is_none(before):
    after = copy.deepcopy(before)
    after["figures"][1] = figure("lisa", 1.5)
    after["figures"][0]["ratio"] = {"min": 0.7, "median": 1.0, "max": 1.4}  # SFT differs from itself by 40 %
    assert verdicts(before, after)["lisa", "ratio"] == "within noise"


def test_memory_counts_from_one_per_cent_on(before):
    for peak, verdict in ((1009, "within noise"), (1011, "larger"), (980, "smaller")):
        after = copy.deepcopy(before)
        after["figures"][1] = figure("lisa", 1.2, peak=peak)
        assert verdicts(before, after)["lisa", "peak bytes"] == verdict


def test_seconds_of_other_machines_are_not_compared(before):
    after = copy.deepcopy(before)
    after["machine"]["cores"] = 64
    assert {unit for _, unit in verdicts(before, after)} == {"ratio", "peak bytes"}
    assert ("lisa", "seconds") in verdicts(before, before)


def test_sizes_and_settings_tell_figures_apart(before):
    sized = before | {"figures": [figure("sft", 1.0, varied="width", width=n) for n in (16, 32)]}
    assert [change.name for change in compare.compare(sized, sized) if change.unit == "ratio"] == [
        "sft varied=width width=16", "sft varied=width width=32",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"benchmark": "scale"}, "of step_cost and of scale"),
        ({"settings": {"rank": 4, "steps": 2}}, "different settings: rank, steps"),
    ],
)
def test_unlike_results_are_refused(before, changed, message):
    with pytest.raises(SystemExit, match=message):
        compare.compare(before, before | changed)


def test_a_method_in_one_result_only_is_named(before, tmp_path, capsys):
    after = copy.deepcopy(before)
    after["figures"].append(figure("bds", 2.0))
    files = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, result in zip(files, (before, after), strict=True):
        path.write_text(json.dumps(result))
    compare.main([str(path) for path in files])
    out = capsys.readouterr().out
    assert "| lisa | ratio | 1.2 | 1.2 | 1.00 | within noise |" in out
    assert "Only in one of the two: bds." in out


def test_fail_is_for_what_became_worse(before, tmp_path, capsys):
    after = copy.deepcopy(before)
    after["figures"][1] = figure("lisa", 1.5)
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(before))
    new.write_text(json.dumps(after))
    compare.main([str(new), str(old), "--fail", "--json"])  # faster
    assert json.loads(capsys.readouterr().out)["changes"][3]["verdict"] == "faster"
    with pytest.raises(SystemExit) as stopped:
        compare.main([str(old), str(new), "--fail"])
    assert stopped.value.code == 1


@pytest.mark.parametrize("text", ["", "[]", '{"figures": []}'])
def test_another_file_is_refused(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SystemExit, match=r"x\.json is no result of a benchmark"):
        compare.main([str(tmp_path / "x.json"), str(tmp_path / "x.json")])


def test_what_a_benchmark_saves_is_what_is_compared(tmp_path, capsys):
    path = tmp_path / "saved.json"
    sizes = ["--width", "32", "--layers", "1", "--vocabulary", "64", "--batch", "2", "--sequence", "16"]
    options = [*sizes, "--device", "cpu", "--repeats", "1", "--steps", "1", "--methods", "sft"]
    step_cost.main([*options, "--out", str(path)])
    assert path.read_text() == capsys.readouterr().out
    compare.main([str(path), str(path), "--fail"])
    assert "| sft | ratio |" in capsys.readouterr().out
