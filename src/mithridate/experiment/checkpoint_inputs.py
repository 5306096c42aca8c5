"""What a repair of a checkpoint on disk is given, and what tells one such repair from another."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from mithridate.errors import DefenseError
from mithridate.experiment.manifest import code_versions
from mithridate.files import file_hash
from mithridate.models.checkpoint_folder import open_checkpoint
from mithridate.models.empty_models import empty_model
from mithridate.models.loading import Where, load_tokenizer, where_named
from mithridate.models.stored_weights import StoredWeights
from mithridate.models.tokenization import Rows, tokenizer_hash
from mithridate.repair.post_tuning import Repair
from mithridate.repair.stored_inputs import StoredInputs, StoredModel


class CheckpointInputs(NamedTuple):
    """Models that stay on disk, rows, and the tokenizer that reads them.

    Attributes:
        places: Where each model lies, by role.
        models: The models, by role.
        rows: Streams by name; None where one is not given.
        tokenizer: The tokenizer; None where no rows are given.
        template: Name of the chat template; None for the tokenizer's own.
    """

    places: dict[str, Where]
    models: dict[str, StoredModel]
    rows: dict[str, list[Mapping[str, Any]] | None]
    tokenizer: PreTrainedTokenizerBase | None
    template: str | None

    @property
    def tuned(self) -> StoredWeights:
        """Weights of the model to repair."""
        return self.models["model"].weights

    @property
    def folders(self) -> list[Path]:
        """Folders of all models."""
        return [one.weights.checkpoint.folder for one in self.models.values()]

    def identity(self, defense: Repair) -> dict[str, Any]:
        """Return all that decides the output."""
        prints = {role: one.weights.checkpoint.print_of() for role, one in self.models.items()}
        return {
            "method": defense.info.name,
            "settings": defense.model_dump(mode="json"),
            "models": {role: [*self.places[role], found] for role, found in prints.items()},
            "adapters": {role: _adapter_print(where) for role, where in self.places.items()},
            "rows": {name: _rows_print(given) for name, given in self.rows.items()},
            "tokenizer": None if self.tokenizer is None else tokenizer_hash(self.tokenizer),
            "versions": code_versions(),
        }

    def stored(self, defense: Repair, work: Path) -> StoredInputs:
        """Return the inputs as a repair takes them.

        Args:
            defense: The repair.
            work: Folder for what is too large for memory.
        """
        references = {role: self.models.get(role) for role in ("aligned", "base")}
        name = type(defense).__name__
        return StoredInputs(name, self.models["model"], self.tokenizer, defense.max_length, self.rows, references, work)


def checkpoint_inputs(
    models: Mapping[str, str | Path | None], streams: Mapping[str, Rows | None], template: str | None
) -> CheckpointInputs:
    """Open models and read rows.

    Args:
        models: Folders or hub ids by role, `model` the one to repair; None where one is not given.
        streams: Rows by name; None where none are given.
        template: Chat template, where the tokenizer has none.

    Raises:
        ModelError: If a checkpoint or the tokenizer cannot be read.
        DefenseError: If weights are quantized.
    """
    places = {role: where_named(str(name)) for role, name in models.items() if name is not None}
    found = {role: _opened(where) for role, where in places.items()}
    rows = {name: None if given is None else list(given) for name, given in streams.items()}
    tokenizer = load_tokenizer(places["model"].base, template) if any(rows.values()) or template else None
    return CheckpointInputs(places, found, rows, tokenizer, template)


def _opened(where: Where) -> StoredModel:
    if where.quantize != "none":
        raise DefenseError(
            f"the adapter {where.adapter} was trained on its base in {where.quantize}, and by shard it would be merged "
            "into the whole weights with a loss that is not stated; repair the adapter itself, without --by-shard"
        )
    checkpoint = open_checkpoint(where.base)
    empty = empty_model(where, checkpoint.folder)
    return StoredModel(StoredWeights(empty.model, checkpoint), empty.dtype)


def _adapter_print(where: Where) -> dict[str, str]:
    if where.adapter is None:
        return {}
    return {path.name: file_hash(path) for path in sorted(Path(where.adapter).glob("adapter_*")) if path.is_file()}


def _rows_print(rows: list[Mapping[str, Any]] | None) -> str | None:
    if rows is None:
        return None
    # Nothing else of a row is read, and other columns may hold what JSON does not know.
    read = [[row.get("prompt"), row.get("completion")] for row in rows]
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()
