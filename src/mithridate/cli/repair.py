"""``mithridate repair`` and ``mithridate rescale``."""

from pathlib import Path
from typing import Any

import yaml
from peft import PeftModel

from mithridate.cli.models import open_model, open_to_rescale, where_named
from mithridate.data import open_rows
from mithridate.data.sources import MINIATURE
from mithridate.defenses.base import Repair
from mithridate.errors import RecipeError, UsageError
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.manifest import versions, write_manifest
from mithridate.experiment.recipe import Choice
from mithridate.experiment.stage_folder import DISPLACEMENT
from mithridate.experiment.strict_yaml import load_yaml
from mithridate.models.loading import load, save_merged
from mithridate.repair.displacement import Displacement


def command(
    name: str,
    out: Path,
    method: str,
    streams: dict[str, str | None],
    references: dict[str, str | None],
    settings: list[str],
    template: str | None,
    ignore: list[str],
) -> None:
    """Repair a model and write it with a manifest of what was changed."""
    _refuse_existing(out)
    defense = _build(method, settings)
    rows = {
        stream: open_rows(source, ignore=_of_file(source, ignore))
        for stream, source in streams.items()
        if source is not None
    }
    model, tokenizer = open_model(name, template)
    others = {other: load(where_named(at), "float32") for other, at in references.items() if at is not None}
    repaired = defense.repair(model, tokenizer, **rows, **others)
    with plain_disk_errors(out):
        _save(model, tokenizer, out, merge=repaired.merged)
        if repaired.displacement is not None:
            repaired.displacement.save(out / DISPLACEMENT)
        write_manifest(
            out,
            {
                "model": name,
                "method": method,
                "settings": defense.model_dump(mode="json"),
                "streams": streams,
                "references": references,
                "versions": versions(),
                "repaired": repaired.model_dump(mode="json"),
            },
        )
    print(f"{out}: {method} changed {repaired.changed} weights by {repaired.distance:.4g} (L2 norm)")


def rescale(name: str, displacement: Path, scale: float, out: Path) -> None:
    """Set a displaced model to base + scale·ε and write it."""
    _refuse_existing(out)
    found = Displacement.load(displacement)
    model, tokenizer = open_to_rescale(name)
    before = found.scale
    found.apply(model, scale)
    with plain_disk_errors(out):
        _save(model, tokenizer, out, merge=False)
        found.save(out / DISPLACEMENT)
        write_manifest(out, {"model": name, "scale": {"before": before, "after": scale}, "versions": versions()})
    print(f"{out}: scale of ε changed from {before:g} to {scale:g}")


def _of_file(source: str, ignore: list[str]) -> list[str]:
    """The keys to leave out; rows of the embedded world have none."""
    return [] if source.startswith(MINIATURE) else ignore


def _build(method: str, settings: list[str]) -> Repair:
    values: dict[str, Any] = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise UsageError(f"--set {setting!r} must be name=value")
        if key in values or key == "method":
            raise UsageError(f"--set {key} is given twice" if key in values else "name the method with --method")
        try:
            values[key] = load_yaml(value)
        except (yaml.YAMLError, RecipeError) as error:
            raise UsageError(f"--set {key}: {value[:60]!r} is no YAML value") from error
    defense = Choice(method=method, **values).build("posttuning")
    assert isinstance(defense, Repair)
    return defense


def _refuse_existing(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder as --out")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; give another --out, nothing is overwritten")


def _save(model: Any, tokenizer: Any, out: Path, merge: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel) and not merge:
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    else:
        save_merged(model, tokenizer, out)
