"""Row weights: running means per row, written with origin and label."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from mithridate.training.row_weights import MeanRowWeights, RowShares
from tests.helpers.training import run


def test_a_weight_is_the_mean_of_share_times_rows():
    weights = MeanRowWeights(4)
    for rows, shares in (([0, 2], [0.75, 0.25]), ([2, 1, 0, 3], [0.5, 0.5, 0.0, 0.0])):
        weights.add(rows, RowShares(rows, shares, [0.0] * len(rows)).relative())
    assert weights.mean().tolist() == [(1.5 + 0.0) / 2, 2.0, (0.5 + 2.0) / 2, 0.0]


def test_rows_are_written_with_origin_and_label(tmp_path):
    data = Dataset.from_list([{"origin": f"a.jsonl:{i}", "harmful": i == 1, "x": 0} for i in range(3)])
    weights = MeanRowWeights(3)
    weights.add([0, 1], [1.8, 0.2])
    weights.write(tmp_path / "w.jsonl", data)
    lines = [json.loads(line) for line in (tmp_path / "w.jsonl").read_text().splitlines()]
    assert lines[1] == {"row": 1, "weight": 0.2, "times": 1, "origin": "a.jsonl:1", "harmful": True}
    assert lines[2] == {"row": 2, "weight": None, "times": 0, "origin": "a.jsonl:2", "harmful": False}


def test_a_run_writes_every_row_and_a_whole_pass_has_mean_one():
    made = run("antibody_tuning", max_steps=8, rows=32).trainer
    written = (Path(made.args.output_dir) / "row_weights.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["row"] for line in lines] == list(range(32))
    assert all(line["times"] == 1 for line in lines)
    assert sum(line["weight"] for line in lines) / 32 == pytest.approx(1.0)
    assert max(line["weight"] for line in lines) > 1.05
