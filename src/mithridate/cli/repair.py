"""The commands ``mithridate repair`` and ``mithridate rescale``."""

import json
from pathlib import Path
from typing import Any

import yaml
from peft import PeftModel

from mithridate.cli import repair_by_shard
from mithridate.cli.models import open_model, open_to_rescale
from mithridate.cli.output_folder import refuse_existing
from mithridate.data import load_rows
from mithridate.data.data_sources import MINIATURE
from mithridate.data.refusal_sets import read_refusals
from mithridate.data.refusals import REFUSALS
from mithridate.errors import RecipeError, UsageError
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.manifest import versions, write_manifest
from mithridate.experiment.recipe import Choice
from mithridate.experiment.stage_folder import DISPLACEMENT
from mithridate.experiment.strict_yaml import load_yaml
from mithridate.models.loading import load, save_merged, where_named
from mithridate.repair.displacement import Displacement
from mithridate.repair.post_tuning import Repair
from mithridate.training.processes import refuse_launcher


def command(
    name: str,
    out: Path,
    method: str,
    streams: dict[str, str | None],
    refusals: str | None,
    references: dict[str, str | None],
    settings: list[str],
    template: str | None,
    ignore: list[str],
    dtype: str,
    as_json: bool,
    by_shard: bool = False,
) -> None:
    """Repair a model and write it, in the type of its weights, with a manifest of what was changed."""
    refuse_launcher("a repair of files runs", "or call repair() on the model in every process")
    # Folder and settings are checked before anything is loaded: a typing error is not to cost minutes.
    refuse_existing(out)
    defense = _build(method, settings)
    rows = {
        stream: load_rows(source, ignore=_of_file(source, ignore))
        for stream, source in streams.items()
        if source is not None
    }
    sentences = _refusals(defense, refusals)
    if by_shard:
        named = streams | {"refusals": refusals}
        repair_by_shard.command(name, out, defense, rows, named, references, template, dtype, as_json)
        return
    places = {other: where_named(at) for other, at in references.items() if at is not None}
    repair_by_shard.refuse_larger_than_memory(defense, [where_named(name, tokenizer=True), *places.values()])
    # All in the same type: a difference of weights in two precisions would be mostly rounding.
    model, tokenizer = open_model(name, template, dtype)
    others = {other: load(where, dtype) for other, where in places.items()}
    repaired = defense.repair(model, tokenizer, **rows, **others, refusals=sentences)
    record = {
        "model": name,
        "method": method,
        "settings": defense.model_dump(mode="json"),
        "streams": streams | {"refusals": refusals},
        "references": references,
        **_held(name),
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": versions(),
        "repaired": repaired.model_dump(mode="json"),
    }
    with plain_disk_errors(out):
        _save(model, tokenizer, out, merge=repaired.merged)
        if repaired.displacement is not None:
            repaired.displacement.save(out / DISPLACEMENT)
        write_manifest(out, record)
    if as_json:
        print(json.dumps({"out": str(out)} | record, indent=1))
        return
    print(f"{out}: {method} changed {repaired.changed} weights by {repaired.distance:.4g} (L2 norm)")


def rescale(name: str, displacement: Path, scale: float, out: Path) -> None:
    """Set a displaced model to base + scale·ε and write it, with its displacement, so that it can be done again."""
    refuse_existing(out)
    found = Displacement.load(displacement)
    model, tokenizer = open_to_rescale(name)
    before = found.scale
    found.apply(model, scale)
    with plain_disk_errors(out):
        # In the form in which it came: the displacement names the tensors of that form, adapter or whole weights.
        _save(model, tokenizer, out, merge=False)
        found.save(out / DISPLACEMENT)
        changed = {"scale": {"before": before, "after": scale}}
        write_manifest(out, {"model": name, **_held(name), **changed, "versions": versions()})
    print(f"{out}: scale of ε changed from {before:g} to {scale:g}")


def _held(name: str) -> dict[str, str]:
    """Return what a manifest says of the base under an adapter that was trained on it quantized."""
    quantize = where_named(name).quantize
    return {} if quantize == "none" else {"quantize": quantize}


def _refusals(defense: Repair, source: str | None) -> list[str]:
    """Return the refusals of a source, or our own where the method needs some and none are named."""
    if "refusals" not in defense.streams:
        if source is not None:
            raise UsageError(f"--refusals: {defense.info.name} does not read refusals at these settings; remove it")
        return []
    return REFUSALS if source is None else read_refusals(source, "--refusals")


def _of_file(source: str, ignore: list[str]) -> list[str]:
    """Return the keys to leave out; rows of the embedded world have none."""
    # `miniature:…` together with keys to ignore is refused, but here they may be meant for another stream.
    return [] if source.startswith(MINIATURE) else ignore


def _build(method: str, settings: list[str]) -> Repair:
    values: dict[str, Any] = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise UsageError(f"--set {setting!r} must be name=value")
        if key in values or key == "method":
            raise UsageError(f"--set {key} is given twice" if key in values else "name the method with --method")
        # YAML, as in a recipe, so that a setting that works in one works in the other.
        try:
            values[key] = load_yaml(value)
        except (yaml.YAMLError, RecipeError) as error:
            raise UsageError(f"--set {key}: {value[:60]!r} is not a YAML value") from error
    defense = Choice(method=method, **values).build("posttuning")
    assert isinstance(defense, Repair)  # the registry gives nothing else at this stage; for type checkers
    return defense


def _save(model: Any, tokenizer: Any, out: Path, merge: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel) and not merge:
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    else:
        save_merged(model, tokenizer, out)
