"""A saved model: a folder with model.safetensors and model.json, written whole or not at all.

model.json says what the model is, and holds the hash of its own contents and that of the tensors. The hashes
find damage and careless changes; they are no signature, and whoever means harm can write new ones.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pairfolio.config import Settings, first_fault
from pairfolio.data.findings import Event, stamp
from pairfolio.data.pair import Pair
from pairfolio.errors import ModelError
from pairfolio.interval import interval_name
from pairfolio.learning.features import Scaling, feature_names
from pairfolio.learning.model import Block, Model, SeedRecord
from pairfolio.learning.networks import Allocator

FORMAT = 1
TENSORS, RECORD = "model.safetensors", "model.json"
# Closes of the last bars seen are kept, so that other assets are noticed by their prices.
SEEN_BARS = 25


class Span(BaseModel):
    """Decisions from the first to the last bar named."""

    first: str
    last: str
    bars: int


class Source(BaseModel):
    """One file of candles the model was made from."""

    name: str
    sha256: str | None
    first: str
    last: str
    rows: int
    adjusted_splits: list[Event]


class ModelRecord(BaseModel):
    """What a model is.

    Attributes:
        features: Columns the networks see, in order.
        costs: Share of the traded value paid in training.
        last_bar: The last bar whose price was used; the model may be tested after it.
        number: Of the block in a backtest, which its seeds depend on.
    """

    model_config = ConfigDict(extra="forbid")

    format: int
    pair: tuple[str, str]
    assets: int
    interval: str
    features: list[str]
    costs: float
    minimum_variance_weight: float
    training: Span
    validation: Span
    last_bar: str
    number: int
    seeds: list[SeedRecord]
    settings: Settings
    data: list[Source]
    versions: dict[str, str]
    tensors_sha256: str


class SavedModel(NamedTuple):
    """A model as it lies on the disk.

    Attributes:
        model: Ready to decide.
        record: What it is.
        sha256: Of the record, and through it of the tensors.
        seen: Closes of the last bars seen, one column an asset.
    """

    model: Model
    record: ModelRecord
    sha256: str
    seen: pd.DataFrame


def save_model(
    folder: Path, model: Model, pair: Pair, block: Block, number: int, versions: dict[str, str]
) -> ModelRecord:
    """Write a model; equal models give equal bytes.

    Args:
        folder: To be made.
        model: Trained.
        pair: The candles it was trained on.
        block: The decisions it was trained on.
        number: Of the block.
        versions: Of what it was made with.

    Raises:
        ModelError: If the folder is there already, or a weight is not finite.
        OSError: If it cannot be written.
    """
    refuse_existing(folder)
    last = block.validation[-1] + 1
    tensors = save(_tensors(model, pair, last))
    record = ModelRecord(
        format=FORMAT,
        pair=pair.names,
        assets=len(pair.frames),
        interval=interval_name(pair.interval),
        features=feature_names(model.settings.features, len(pair.frames)),
        costs=model.settings.loss.fee,
        minimum_variance_weight=model.seeds[0].minimum_variance_weight,
        training=_span(pair, block.training),
        validation=_span(pair, block.validation),
        last_bar=stamp(pair.times[last]),
        number=number,
        seeds=list(model.seeds),
        settings=model.settings,
        data=[Source.model_validate(file.model_dump()) for file in pair.findings.files],
        versions=versions,
        tensors_sha256=hashlib.sha256(tensors).hexdigest(),
    )
    tree = record.model_dump(mode="json")
    text = json.dumps({"sha256": _digest(tree), "model": tree}, indent=2, ensure_ascii=False) + "\n"
    _write(folder, {TENSORS: tensors, RECORD: text.encode()})
    return record


def refuse_existing(folder: Path) -> None:
    """A model is never written over another.

    Raises:
        ModelError: If something lies there.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ModelError(f"{folder} is there already; name another folder, or remove it")


def load_model(folder: Path) -> SavedModel:
    """Read a model and prove that it is whole.

    Raises:
        ModelError: If a file is missing, altered, cut short or of another version.
    """
    tree, sha256 = _checked(folder)
    try:
        record = ModelRecord.model_validate(tree)
    except ValidationError as error:
        raise ModelError(f"{folder / RECORD}: {first_fault(error)}; train the model again") from error
    if record.format != FORMAT or record.features != feature_names(record.settings.features, record.assets):
        raise ModelError(f"{folder / RECORD}: made by another version of pairfolio; train the model again")
    raw = _read(folder / TENSORS)
    if hashlib.sha256(raw).hexdigest() != record.tensors_sha256:
        raise ModelError(f"{folder / TENSORS}: not the file the model was saved with; {_COPY}")
    try:
        tensors = load(raw)
        return SavedModel(_model(tensors, record), record, sha256, _seen(tensors))
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ModelError(f"{folder / TENSORS}: does not fit {RECORD} ({error}); {_COPY}") from error


_COPY = "copy the folder anew, or train the model again"


def _checked(folder: Path) -> tuple[object, str]:
    """The record as JSON, once its own hash is right."""
    try:
        whole = json.loads(_read(folder / RECORD).decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder / RECORD}: is no JSON ({error}); {_COPY}") from error
    if not isinstance(whole, dict) or set(whole) != {"sha256", "model"}:
        raise ModelError(f"{folder / RECORD}: holds no model; give a folder written by pairfolio train")
    if _digest(whole["model"]) != whole["sha256"]:
        raise ModelError(f"{folder / RECORD}: was altered since the model was saved; {_COPY}")
    return whole["model"], whole["sha256"]


def _digest(tree: object) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}); give a folder written by pairfolio train"
        ) from error


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Fill a folder beside the place, then move it there in one step."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{uuid4().hex}.partial"
    partial.mkdir()
    try:
        for name, content in files.items():
            with (partial / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        partial.rename(folder)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


def _tensors(model: Model, pair: Pair, last: int) -> dict[str, Tensor]:
    named = {
        f"seed.{one.seed}.{name}": value.contiguous()
        for one, network in zip(model.seeds, model.networks, strict=True)
        for name, value in network.state_dict().items()
    }
    bars = slice(max(0, last + 1 - SEEN_BARS), last + 1)
    closes = np.column_stack([frame["close"].to_numpy()[bars] for frame in pair.frames])
    named |= {
        "scaling.mean": torch.from_numpy(model.scaling.mean),
        "scaling.spread": torch.from_numpy(model.scaling.spread),
        "seen.closes": torch.from_numpy(closes),
    }
    bad = [name for name, value in named.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise ModelError(f"{bad[0]} is not finite after training; lower training.learning_rate")
    return named | {"seen.times": torch.from_numpy(pair.times[bars].as_unit("us").asi8.copy())}


def _model(tensors: dict[str, Tensor], record: ModelRecord) -> Model:
    networks = []
    for one in record.seeds:
        prefix = f"seed.{one.seed}."
        network = Allocator(len(record.features), record.settings.network)
        network.load_state_dict(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        )
        networks.append(network.eval())
    scaling = Scaling(tensors["scaling.mean"].numpy(), tensors["scaling.spread"].numpy())
    return Model(tuple(networks), scaling, record.settings, tuple(record.seeds))


def _seen(tensors: dict[str, Tensor]) -> pd.DataFrame:
    times = pd.DatetimeIndex(pd.to_datetime(tensors["seen.times"].numpy(), unit="us", utc=True))
    return pd.DataFrame(tensors["seen.closes"].numpy(), index=times.as_unit("us"))


def _span(pair: Pair, part: range) -> Span:
    return Span(first=stamp(pair.times[part[0]]), last=stamp(pair.times[part[-1]]), bars=len(part))
