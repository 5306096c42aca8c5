"""The estimate of the time left, with a clock of our own."""

from pathlib import Path

import pytest

from mithridate.experiment.forecast import Forecast, RunProgress
from mithridate.experiment.jobs import EvaluationJob, ProviderRows, StageNode, StoredRows, TrainingJob
from mithridate.experiment.recipe import Choice
from mithridate.experiment.recipe_parts import JudgeSettings, LoraSettings, TaskMatching, TrainingSettings

COMMON = {"model": "none", "precision": "float32", "template": None, "threads": 1}


def training(key: str, rows: Path, epochs: float) -> StageNode:
    job = TrainingJob(
        **COMMON,
        stage="finetuning",
        defense=Choice(method="sft"),
        rows=StoredRows(path=str(rows), sha256=""),
        provider=ProviderRows(),
        training=TrainingSettings(epochs=epochs, batch_size=8),
        adapter="fresh",
        lora=LoraSettings(),
        max_length=8,
        seed=0,
    )
    return StageNode(key=key, parent=None, job=job, label=f"stage {key}")


def evaluation(key: str) -> StageNode:
    stored = StoredRows(path="none", sha256="")
    job = EvaluationJob(
        **COMMON,
        prompts=stored,
        prompt_groups=None,
        test=stored,
        look_alikes=None,
        look_alike_groups=None,
        help=None,
        help_check=None,
        task=TaskMatching(),
        judge=JudgeSettings(),
        max_new_tokens=4,
        batch_size=4,
    )
    return StageNode(key=key, parent=None, job=job, label=f"stage {key}")


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    """Training stages by epochs and evaluations; a row file of 20 rows, batches of 8: three steps per epoch."""

    def __init__(self, folder: Path, jobs: int = 1) -> None:
        rows = folder / "rows.jsonl"
        rows.write_text("{}\n" * 20)
        self.nodes = {f"t{epochs}": training(f"t{epochs}", rows, epochs) for epochs in (1, 2, 4)}
        self.nodes |= {f"e{i}": evaluation(f"e{i}") for i in range(3)}
        self.clock = Clock()
        self.forecast = Forecast(list(self.nodes.values()), jobs, self.clock)

    def do(self, key: str, seconds: float) -> float | None:
        self.forecast.started(self.nodes[key])
        self.clock.now += seconds
        return self.forecast.finished(self.nodes[key])

    @property
    def state(self) -> RunProgress:
        return self.forecast.progress()


def test_nothing_is_estimated_before_every_kind_was_measured(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.state.left is None
    assert "0/6 stages · estimating… · waiting" in world.state.line()
    world.do("t1", 3.0)
    assert world.state.left is None
    world.do("e0", 10.0)
    assert world.state.left == pytest.approx(3.0 * (2 + 4) + 2 * 10)
    assert "2/6 stages · about 38.0 s left" in world.state.line()


def test_training_scales_with_its_steps_and_durations_are_averaged(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.do("e0", 10.0)
    world.do("e1", 20.0)
    world.do("t1", 3.0)
    world.do("t2", 9.0)  # 12 s for 9 steps
    assert world.state.left == pytest.approx(15 + 12 / 9 * 12)


def test_time_already_spent_is_taken_off_but_never_more_than_the_stage(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.do("t1", 3.0)
    world.do("e0", 10.0)
    world.forecast.started(world.nodes["e1"])
    assert world.state.running == ["stage e1"]
    world.clock.now += 4.0
    assert world.state.left == pytest.approx(18 + 6 + 10)
    world.clock.now += 40.0
    assert world.state.left == pytest.approx(18 + 0 + 10)


def test_jobs_divide_the_work_and_stored_stages_take_no_time(tmp_path: Path) -> None:
    world = World(tmp_path, jobs=2)
    assert world.forecast.finished(world.nodes["t4"]) is None  # was in the store
    assert world.state.left is None
    assert world.do("t1", 3.0) == 3.0
    world.do("e0", 10.0)
    assert world.state.left == pytest.approx((6 + 20) / 2)
    for key in ("t2", "e1", "e2"):
        world.do(key, 1.0)
    assert world.state.left == 0
    assert world.state.done == world.state.total == 6


def test_a_stage_that_cannot_be_done_is_counted_and_its_time_is_not_taken_for_others(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.do("t1", 3.0)
    world.do("e0", 10.0)
    world.forecast.started(world.nodes["t4"])
    world.clock.now += 500.0
    world.forecast.failed(world.nodes["t4"])
    world.forecast.failed(world.nodes["e2"])  # was never started
    assert world.state.done == 4
    assert world.state.running == []
    assert world.state.left == pytest.approx(6 + 10)
