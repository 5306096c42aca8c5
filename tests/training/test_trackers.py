"""Extras that a setting of SFTConfig asks for: a defended training is tracked as a plain one is."""

from pathlib import Path

import pytest

import mithridate as mi
from tests.helpers import tiny


def test_tensorboard_gets_the_figures_of_a_defended_training(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra: pip install 'mithridate[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = mi.DefendedTrainer(
        tiny.model(),
        args=tiny.config(tmp_path / "out", report_to="tensorboard", max_steps=3, logging_steps=1),
        train_dataset=tiny.rows("user"),
        processing_class=tiny.tokenizer(),
        defense=mi.AntibodyTuning(temperature=1.0),
        refusals=tiny.REFUSALS,
    )
    trainer.train()
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(events.parent))
    found.Reload()
    scalars = set(found.Tags()["scalars"])
    proofs = {"weight_max", "weight_effective_rows", "rows_held_back"}
    assert {"train/loss", "train/grad_norm", *(f"train/{name}" for name in proofs)} <= scalars
    logged = [entry["weight_max"] for entry in trainer.state.log_history if "weight_max" in entry]
    assert [event.value for event in found.Scalars("train/weight_max")] == pytest.approx(logged)
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2, 3]
