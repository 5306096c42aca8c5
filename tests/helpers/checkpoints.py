"""Tiny checkpoints on disk in several files, and the same repair in memory."""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mithridate.experiment.checkpoint_repair import CheckpointRepair, repair_checkpoint
from mithridate.models.loading import Where, load, load_tokenizer, save_merged
from mithridate.repair.post_tuning import Repair
from tests.helpers import tiny
from tests.helpers.adapters import adapted, gpt2, tied
from tests.helpers.origins import before_alignment, shaken

SHARD = "8KB"
"""So small that the blocks of a tiny model lie in several files."""
ROWS = {kind: list(tiny.rows(kind, 5)) for kind in ("harmful", "safe", "user")}


def saved(model: Any, folder: Path, shard: str = SHARD) -> Path:
    model.save_pretrained(folder, max_shard_size=shard)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def family(folder: Path, kind: str = "llama", dtype: torch.dtype = torch.float32) -> dict[str, Path]:
    """A base, an aligned and a tuned checkpoint, and an adapter on the aligned one."""
    made = {"llama": lambda: tiny.model(layers=3), "gpt2": gpt2, "tied": tied}[kind]()
    aligned = made.to(dtype)
    paths = {
        "aligned": saved(aligned, folder / "aligned"),
        "base": saved(before_alignment(aligned), folder / "base"),
        "tuned": saved(shaken(aligned, 3, 0.05), folder / "tuned"),
    }
    targets = ["c_attn", "c_proj"] if kind == "gpt2" else ["q_proj", "down_proj"]
    twin = copy.deepcopy(aligned)
    twin.name_or_path = str(paths["aligned"])
    tuned = adapted(twin, targets, fan_in_fan_out=kind == "gpt2")
    tuned.peft_config["default"].base_model_name_or_path = str(paths["aligned"])
    tuned.save_pretrained(folder / "adapter")
    return paths | {"adapter": folder / "adapter"}


def on_disk(defense: Repair, paths: dict[str, Path], out: Path, model: str = "tuned", **given: Any) -> CheckpointRepair:
    references = {name: paths[name] for name in defense.info.references}
    return repair_checkpoint(defense, paths[model], out, **ROWS, **references, **given)


def in_memory(defense: Repair, paths: dict[str, Path], out: Path, model: str = "tuned") -> Any:
    where = Where(str(paths["aligned"]), str(paths[model])) if model == "adapter" else Where(str(paths[model]), None)
    tokenizer, tuned = load_tokenizer(where.base, None), load(where, "auto")
    references = {name: load(Where(str(paths[name]), None), "auto") for name in defense.info.references}
    repaired = defense.repair(tuned, tokenizer, **ROWS, **references)
    if model == "adapter" and not repaired.merged:
        tuned.save_pretrained(out)
    else:
        save_merged(tuned, tokenizer, out)
    return repaired


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name != "displacement.safetensors":
            found |= load_file(path)
    return found
