"""The rows of a recipe that is planned: read where they can be, counted by what the recipe says where they cannot."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mithridate.attacks.upload_attack import TrainingAsk
from mithridate.errors import MithridateError
from mithridate.experiment.attacker import Attacker
from mithridate.experiment.inputs import Inputs, StoredRound, StoredUpload
from mithridate.experiment.jobs import StoredRows
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_rows import Source, UploadChoice
from mithridate.experiment.row_files import RowFiles

ASSUMED_ROWS = 1000
"""Rows of a source that cannot be read and whose size the recipe does not say."""


class PlannedInputs(Inputs):
    """The rows of a recipe, each source for itself read or assumed.

    Nothing is checked against each other, and no attack is run that needs a model: a plan only counts.

    Args:
        recipe: The recipe.
        base: Folder in which relative paths are looked up first.
        folder: Where to write what was read.

    Attributes:
        assumed: Rows of each set that could not be read, by the set's hash.
        reasons: Why they could not, a sentence for each set.
    """

    def __init__(self, recipe: Recipe, base: Path, folder: Path) -> None:
        # Not the parent's own: it refuses a recipe as soon as one of its sources is missing.
        self._read = RowFiles(base, folder)
        self.assumed: dict[str, int] = {}
        self.reasons: list[str] = []
        self._recipe = recipe
        self._uploads = {}
        user, measured = recipe.streams.user, recipe.evaluation
        self._benign = self._found("streams.user.benign", lambda: self._read.rows(user.benign, "streams.user.benign"))
        attacker = user.attacker
        self._attack = None
        if attacker is not None:
            self._attack = self._found(
                "streams.user.harmful", lambda: self._read.rows(attacker, "streams.user.harmful")
            )
        self.safe = self._rows("safe", "streams.safe", recipe.streams.safe)
        first = recipe.streams.alignment
        self.alignment = self.safe if first is None else self._rows("alignment", "streams.alignment", first)
        self.harmful = self._rows("harmful", "streams.harmful", recipe.streams.harmful)
        refusals = self._found("streams.refusals", lambda: self._read.refusals(recipe.streams.refusals))
        self.refusals = self._kept("refusals", refusals, ASSUMED_ROWS, self._read.keep_texts)
        self.evaluation = self._prompts("evaluation", "evaluation.harmful", measured.harmful)
        self.evaluation_groups = self.look_alike_groups = None
        self.test = self._rows("test", "evaluation.task.rows", measured.task.rows)
        self.help = None if measured.help is None else self._rows("help", "evaluation.help.rows", measured.help.rows)
        self.look_alikes = None
        if measured.look_alikes is not None:
            self.look_alikes = self._prompts("look-alikes", "evaluation.look_alikes", measured.look_alikes)
        self.attacker_benign = self.attacker_harmful = None

    def upload(self, ratio: float, size: int, seed: int, attack: UploadChoice | None) -> StoredUpload:
        """Return the user's rows; mixed as for a run where they were read, else so many as the recipe says."""
        key = (ratio, size, seed, "" if attack is None else attack.model_dump_json())
        if key not in self._uploads:
            self._uploads[key] = self._mixed(ratio, size, seed, attack) or self._assumed_upload(str(key), size)
        return self._uploads[key]

    def _mixed(self, ratio: float, size: int, seed: int, attack: UploadChoice | None) -> StoredUpload | None:
        needs_harm = attack is None or self._recipe.streams.user.attacker is not None
        if self._benign is None or (needs_harm and self._attack is None):
            return None
        if attack is not None and "model" in attack.upload().needs:
            return None
        attacker = Attacker(self._recipe, self._benign, self._attack)
        made = attacker.upload(ratio, size, seed, attack)
        rounds = [StoredRound(self._read.keep_rows("user", one.rows), one.asks) for one in made.rounds]
        held_out = None if made.held_out is None else self._read.keep_rows("held-out", made.held_out)
        return StoredUpload(rounds, held_out)

    def _assumed_upload(self, key: str, size: int) -> StoredUpload:
        count = self._recipe.streams.user.held_out
        held_out = self._assume(f"held-out {key}", count) if count else None
        return StoredUpload([StoredRound(self._assume(f"user {key}", size - count), TrainingAsk())], held_out)

    def _rows(self, name: str, key: str, sources: Any) -> StoredRows:
        found = self._found(key, lambda: self._read.rows(sources, key))
        return self._kept(name, found, _size(sources), self._read.keep_rows)

    def _prompts(self, name: str, key: str, sources: Any) -> StoredRows:
        found = self._found(key, lambda: self._read.prompts(sources, key)[0])
        return self._kept(name, found, _size(sources), self._read.keep_texts)

    def _found(self, key: str, read: Callable[[], Any]) -> Any | None:
        try:
            return read()
        except MithridateError as error:
            self.reasons.append(f"{key} cannot be read, so its rows are assumed: {str(error).splitlines()[0]}")
            return None

    def _kept(self, name: str, found: Any | None, size: int, keep: Callable[[str, Any], StoredRows]) -> StoredRows:
        return self._assume(name, size) if found is None else keep(name, found)

    def _assume(self, name: str, size: int) -> StoredRows:
        digest = hashlib.sha256(f"assumed {name}".encode()).hexdigest()
        self.assumed[digest] = size
        return StoredRows(path="", sha256=digest)


def _size(sources: Source | list[Source]) -> int:
    several = sources if isinstance(sources, list) else [sources]
    return sum(source.size or ASSUMED_ROWS for source in several)
