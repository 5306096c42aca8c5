"""Extras that a setting of SFTConfig asks for: with each, a defended training runs as a plain one does."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import mithridate as mi
from tests.helpers import tiny

BITSANDBYTES = "needs the extra: pip install 'mithridate[bitsandbytes]'"


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


def test_an_adapter_on_a_base_in_four_bits_is_trained_with_a_defense(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason=BITSANDBYTES)
    tiny.model(hidden=64).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base",
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32),
        device_map="cpu",
    )
    packed = {name: weight.clone() for name, weight in model.named_parameters() if weight.dtype is torch.uint8}
    trainer = mi.DefendedTrainer(
        model,
        args=tiny.config(tmp_path / "out", max_steps=3),
        train_dataset=tiny.rows("user"),
        processing_class=tiny.tokenizer(),
        peft_config=tiny.lora(),
        defense=mi.AntibodyTuning(temperature=1.0),
        refusals=tiny.REFUSALS,
    )
    trainer.train()
    found = {name.replace(".base_layer", ""): weight for name, weight in trainer.model.named_parameters()}
    assert packed
    assert all(torch.equal(found[f"base_model.model.{name}"], weight) for name, weight in packed.items())
    assert any(bool(weight.any()) for name, weight in found.items() if "lora_B" in name)


def test_an_optimizer_in_eight_bits_takes_a_defense_s_gradient(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason=BITSANDBYTES)
    trainer = mi.DefendedTrainer(
        tiny.model(),
        args=tiny.config(tmp_path / "out", max_steps=2, optim="adamw_bnb_8bit"),
        train_dataset=tiny.rows("user"),
        processing_class=tiny.tokenizer(),
        defense=mi.AntibodyTuning(temperature=1.0),
        refusals=tiny.REFUSALS,
    )
    trainer.train()
    assert type(trainer.optimizer.optimizer).__module__.startswith("bitsandbytes")
    assert all(bool(weight.isfinite().all()) for weight in trainer.model.parameters())
