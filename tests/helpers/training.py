"""Short runs of the real trainer on the tiny model, each kind of run done once per test process."""

import functools
import gc
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from accelerate.utils import imports
from datasets import arrow_dataset
from trl import SFTTrainer

from mithridate.defenses.registry import methods
from mithridate.repair.post_tuning import Repair
from mithridate.training.defense import Defense
from mithridate.training.sharding import reshard, whole
from mithridate.training.trainer import DefendedTrainer
from tests.helpers import tiny

torch.set_num_threads(1)
# Accelerate reads the metadata of a package whenever it asks for it, dozens of times for a trainer.
imports._is_package_available = functools.cache(imports._is_package_available)
# For processes that are forked from here, as `pytest_collection_finish` does for the tests' own.
gc.freeze()


class Run(NamedTuple):
    """What a short run leaves.

    Attributes:
        weights: The trainable weights at the end, by name.
        logs: The logged figures of every step.
        trainer: The trainer itself.
    """

    weights: dict[str, torch.Tensor]
    logs: list[dict[str, float]]
    trainer: SFTTrainer


def training_methods() -> list[str]:
    return [name for name, info in methods().items() if issubclass(info.cls, Defense)]


def repair_methods() -> list[str]:
    return [name for name, info in methods().items() if issubclass(info.cls, Repair)]


def streams() -> dict[str, Any]:
    return {
        "safe_dataset": tiny.rows("safe"),
        "harmful_dataset": tiny.rows("harmful", 24),
        "refusals": tiny.REFUSALS,
    }


def trainer(
    defense: Defense | None,
    folder: Any,
    *,
    full: bool = False,
    rows: int = 32,
    dropout: float = 0.0,
    callbacks: Any = None,
    extra: dict[str, Any] | None = None,
    **changes: Any,
) -> SFTTrainer:
    """TRL's own trainer without a defense, ours with one."""
    peft = None if full else tiny.lora()
    if peft is not None:
        peft.lora_dropout = dropout
    common: dict[str, Any] = {
        "args": tiny.config(folder, **changes),
        "train_dataset": tiny.rows("user", rows),
        "processing_class": tiny.tokenizer(),
        "peft_config": peft,
        "callbacks": callbacks,
    }
    common |= extra or {}
    model = common.pop("model", None) or tiny.model()
    with _without_fingerprints():
        if defense is None:
            return SFTTrainer(model, **common)
        return DefendedTrainer(model, defense=defense, **streams(), **common)


def _without_fingerprints() -> Any:
    """No hashes of each step that prepares rows, by which a result on disk is found again; there is none here."""
    return mock.patch.object(arrow_dataset, "update_fingerprint", return_value="none")


def finished(made: SFTTrainer) -> Run:
    """The trained weights and logs of a trainer that has run."""
    # Under FSDP2 some layers may still be whole after their last pass, and the shards are what counts.
    reshard(made.model)
    weights = {n: whole(p.detach()).clone() for n, p in made.model.named_parameters() if p.requires_grad}
    return Run(weights, [log for log in made.state.log_history if "loss" in log], made)


@functools.lru_cache(maxsize=64)
def _run(name: str | None, settings: str, options: str) -> Run:
    defense = None if name is None else methods()[name].cls(**json.loads(settings))
    made = trainer(defense, tempfile.mkdtemp(), **json.loads(options))
    made.train()
    return finished(made)


def run(name: str | None, settings: dict[str, Any] | None = None, **options: Any) -> Run:
    """Train with a registered method (None: stock TRL), or give the same run back."""
    return _run(name, json.dumps(settings or {}, sort_keys=True), json.dumps(options, sort_keys=True))


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest difference of any weight."""
    assert first.keys() == second.keys()
    with torch.no_grad():
        return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def folder_of(made: SFTTrainer) -> Path:
    return Path(made.args.output_dir)
