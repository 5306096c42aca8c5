"""The estimate of the time left, with a clock of our own."""

from pathlib import Path

import pytest

from mithridate.compare.forecast import Forecast, State
from mithridate.pipeline.inputs import Stored
from mithridate.pipeline.plan import Node


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
        training = {
            f"t{epochs}": Node(
                "finetuning",
                f"t{epochs}",
                None,
                {
                    "defense": {"method": "sft"},
                    "rows": Stored(str(rows), ""),
                    "training": {"epochs": epochs, "batch_size": 8},
                },
            )
            for epochs in (1, 2, 4)
        }
        self.nodes = training | {f"e{i}": Node("evaluation", f"e{i}", None, {}) for i in range(3)}
        self.clock, self.states = Clock(), list[State]()
        names = {key: f"stage {key}" for key in self.nodes}
        self.forecast = Forecast(self.nodes, names, jobs, self.states.append, self.clock)
        self.forecast.planned(len(self.nodes))

    def do(self, key: str, seconds: float) -> None:
        self.forecast.started(self.nodes[key])
        self.clock.now += seconds
        self.forecast.finished(self.nodes[key])

    @property
    def state(self) -> State:
        return self.states[-1]


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
    world.forecast.progressed("e1", 1, 3)
    assert world.state.left == pytest.approx(18 + 6 + 10)
    world.clock.now += 40.0
    world.forecast.progressed("e1", 2, 3)
    assert world.state.left == pytest.approx(18 + 0 + 10)


def test_jobs_divide_the_work_and_stored_stages_take_no_time(tmp_path: Path) -> None:
    world = World(tmp_path, jobs=2)
    world.forecast.finished(world.nodes["t4"])  # was in the store
    assert world.state.left is None
    assert world.forecast.made == 0
    world.do("t1", 3.0)
    world.do("e0", 10.0)
    assert world.forecast.made == 2
    assert world.state.left == pytest.approx((6 + 20) / 2)
    for key in ("t2", "e1", "e2"):
        world.do(key, 1.0)
    assert world.state.left == 0
    assert world.state.done == world.state.total == 6
