"""Reads the rows of a run once, checks them against each other and stores them."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from mithridate.attacks.upload_attack import TrainingAsk
from mithridate.data import check_disjoint
from mithridate.experiment.attacker import Attacker
from mithridate.experiment.jobs import ProviderRows, StoredRows
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_rows import UploadChoice
from mithridate.experiment.row_files import RowFiles

DISJOINT = (
    # The provider has not seen the attack: a defense that trains on its very rows would look better than it is.
    ("attack", "safe"),
    ("attack", "harmful"),
    # What is measured is unseen by whoever trained: a memorized answer says nothing about other prompts.
    ("attack", "evaluation"),
    ("attack", "alignment"),
    ("safe", "evaluation"),
    ("alignment", "evaluation"),
    ("harmful", "evaluation"),
    ("safe", "look_alikes"),
    ("alignment", "look_alikes"),
    ("safe", "help"),
    ("alignment", "help"),
    ("harmful", "help"),
    ("attack", "help"),
    ("benign", "help"),
    ("benign", "test"),
    # A prompt in both would be harmful in one row of the upload and benign in another.
    ("benign", "attack"),
)
"""Sets that must share no prompt. The provider's safe and harmful rows may, as in the papers."""


class StoredRound(NamedTuple):
    """One upload of an attack, and the training settings that it asks for."""

    rows: StoredRows
    asks: TrainingAsk


class StoredUpload(NamedTuple):
    """What the user hands in, round by round, and what is held out of it."""

    rounds: list[StoredRound]
    held_out: StoredRows | None


class Inputs:
    """All rows of a recipe, as files in the store.

    Args:
        recipe: The recipe.
        base: Folder in which relative paths are looked up first.
        folder: Where to write the files.

    Raises:
        DataError: If a file has faults, or two sets that must be disjoint share a prompt.
        UsageError: If more rows are asked for than there are.
    """

    def __init__(self, recipe: Recipe, base: Path, folder: Path) -> None:
        self._read = RowFiles(base, folder)
        user, measured = recipe.streams.user, recipe.evaluation
        # By what decides an upload, so that all variants under one attack train on the same file.
        self._uploads: dict[tuple[float, int, int, str], StoredUpload] = {}
        self._benign = self._read.rows(user.benign, "streams.user.benign")
        key = "streams.user.harmful" if user.harmful is not None else "streams.user.attack.source"
        self._attack = None if user.attacker is None else self._read.rows(user.attacker, key)
        self._attacker = Attacker(recipe, self._benign, self._attack)
        safe = self._read.rows(recipe.streams.safe, "streams.safe")
        first = recipe.streams.alignment
        alignment = None if first is None else self._read.rows(first, "streams.alignment")
        harmful = self._read.rows(recipe.streams.harmful, "streams.harmful")
        test = self._read.rows(measured.task.rows, "evaluation.task.rows")
        prompts, groups = self._read.prompts(measured.harmful, "evaluation.harmful")
        asked = self._read.rows(measured.help.rows, "evaluation.help.rows") if measured.help is not None else None
        alike, alike_groups = None, None
        if measured.look_alikes is not None:
            alike, alike_groups = self._read.prompts(measured.look_alikes, "evaluation.look_alikes")
        # Before anything is stored, and over whole sources: which rows an upload draws depends on its seed.
        check_disjoint(
            {
                "attack": self._attack or [],
                "safe": safe,
                "alignment": alignment or [],
                "harmful": harmful,
                "evaluation": prompts,
                "benign": self._benign,
                "test": test,
                "help": asked or [],
                "look_alikes": alike or [],
            },
            DISJOINT,
        )
        self.safe = self._read.keep_rows("safe", safe)
        self.alignment = self.safe if alignment is None else self._read.keep_rows("alignment", alignment)
        self.harmful = self._read.keep_rows("harmful", harmful)
        self.refusals = self._read.keep_texts("refusals", self._read.refusals(recipe.streams.refusals))
        self.evaluation = self._read.keep_texts("evaluation", prompts)
        self.evaluation_groups = self._read.keep_groups("evaluation", groups)
        self.test = self._read.keep_rows("test", test)
        self.help = self._read.keep_rows("help", asked) if asked is not None else None
        self.look_alikes = self._read.keep_texts("look-alikes", alike) if alike is not None else None
        self.look_alike_groups = self._read.keep_groups("look-alikes", alike_groups)
        # What an attacker of a finished model has. None of it is measured on, see above.
        wanted = {need for one in measured.release_attacks for need in one.after_release().needs}
        self.attacker_benign = self.user_benign if "benign" in wanted else None
        self.attacker_harmful = self.user_attack if "harmful" in wanted else None

    @cached_property
    def user_benign(self) -> StoredRows:
        """All harmless rows that uploads draw from; stored only where somebody needs them whole."""
        return self._read.keep_rows("benign", self._benign)

    @cached_property
    def user_attack(self) -> StoredRows | None:
        """All harmful rows that uploads draw from, likewise; None where the recipe names none."""
        return None if self._attack is None else self._read.keep_rows("attack", self._attack)

    def upload(self, ratio: float, size: int, seed: int, attack: UploadChoice | None) -> StoredUpload:
        """Return the user's rows: those to train on, round by round, and those held out, if any.

        Args:
            ratio: Share of harmful rows.
            size: Number of rows.
            seed: Seed of the mixing.
            attack: The attack that makes them; None to mix harmful rows in.
        """
        key = (ratio, size, seed, "" if attack is None else attack.model_dump_json())
        if key not in self._uploads:
            made = self._attacker.upload(ratio, size, seed, attack)
            rounds = [StoredRound(self._read.keep_rows("user", one.rows), one.asks) for one in made.rounds]
            held_out = None if made.held_out is None else self._read.keep_rows("held-out", made.held_out)
            self._uploads[key] = StoredUpload(rounds, held_out)
        return self._uploads[key]

    def provider(self, streams: Collection[str]) -> ProviderRows:
        """Return the provider's rows that a defense needs.

        Args:
            streams: Names of its streams; only ``safe``, ``harmful`` and ``refusals`` are the provider's.
        """
        # Only what is needed: rows are part of a stage's key, and unused ones would make it run again for nothing.
        return ProviderRows(
            safe=self.safe if "safe" in streams else None,
            harmful=self.harmful if "harmful" in streams else None,
            refusals=self.refusals if "refusals" in streams else None,
        )

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every fixed input by name; uploads differ by seed and setting."""
        named = {
            "safe": self.safe,
            "harmful": self.harmful,
            "refusals": self.refusals,
            "evaluation": self.evaluation,
            "test": self.test,
        }
        if self.alignment != self.safe:
            named["alignment"] = self.alignment
        for name, stored in (("attacker_benign", self.attacker_benign), ("attacker_harmful", self.attacker_harmful)):
            if stored is not None:
                named[name] = stored
        if self.look_alikes is not None:
            named["look_alikes"] = self.look_alikes
        if self.help is not None:
            named["help"] = self.help
        return {name: stored.sha256 for name, stored in named.items()}
