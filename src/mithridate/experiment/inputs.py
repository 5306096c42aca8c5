"""Reads the rows of a run once, checks them against each other and stores them under their own hash."""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, concatenate_datasets

from mithridate.attacks.upload_attack import TrainingAsk
from mithridate.data import check_disjoint, load_rows, read_prompts
from mithridate.data.refusals import REFUSALS
from mithridate.errors import DataError, UsageError
from mithridate.experiment.attacker import Attacker
from mithridate.experiment.jobs import ProviderRows, StoredRows
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_rows import Source, Sources, UploadChoice, resolved_path
from mithridate.files import file_hash, write_whole

DISJOINT = (
    # The provider has not seen the attack: a defense that trains on its very rows would look better than it is.
    ("attack", "safe"),
    ("attack", "harmful"),
    # What is measured is unseen by whoever trained: a memorized answer says nothing about other prompts.
    ("attack", "evaluation"),
    ("safe", "evaluation"),
    ("harmful", "evaluation"),
    ("safe", "look_alikes"),
    ("safe", "help"),
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
        self._base, self._folder = base, folder
        folder.mkdir(parents=True, exist_ok=True)
        user, measured = recipe.streams.user, recipe.evaluation
        # By what decides an upload, so that all variants under one attack train on the same file.
        self._uploads: dict[tuple[float, int, int, str], StoredUpload] = {}
        self._benign = self._rows(user.benign, "streams.user.benign")
        key = "streams.user.harmful" if user.harmful is not None else "streams.user.attack.source"
        self._attack = None if user.attacker is None else self._rows(user.attacker, key)
        self._attacker = Attacker(recipe, self._benign, self._attack)
        safe = self._rows(recipe.streams.safe, "streams.safe")
        harmful = self._rows(recipe.streams.harmful, "streams.harmful")
        test = self._rows(measured.task.rows, "evaluation.task.rows")
        prompts = self._prompts(measured.harmful, "evaluation.harmful")
        asked = self._rows(measured.help.rows, "evaluation.help.rows") if measured.help is not None else None
        alike = None
        if measured.look_alikes is not None:
            alike = self._prompts(measured.look_alikes, "evaluation.look_alikes")
        # Before anything is stored, and over whole sources: which rows an upload draws depends on its seed.
        check_disjoint(
            {
                "attack": self._attack or [],
                "safe": safe,
                "harmful": harmful,
                "evaluation": prompts,
                "benign": self._benign,
                "test": test,
                "help": asked or [],
                "look_alikes": alike or [],
            },
            DISJOINT,
        )
        self.safe = self._store_rows("safe", safe)
        self.harmful = self._store_rows("harmful", harmful)
        self.refusals = self._store_texts("refusals", self._refusals(recipe.streams.refusals))
        self.evaluation = self._store_texts("evaluation", prompts)
        self.test = self._store_rows("test", test)
        self.help = self._store_rows("help", asked) if asked is not None else None
        self.look_alikes = self._store_texts("look-alikes", alike) if alike is not None else None
        # What an attacker of a finished model has. None of it is measured on, see above.
        wanted = {need for one in measured.release_attacks for need in one.after_release().needs}
        self.attacker_benign = self._store_rows("benign", self._benign) if "benign" in wanted else None
        harm = self._attack if "harmful" in wanted else None
        self.attacker_harmful = None if harm is None else self._store_rows("attack", harm)

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
            rounds = [StoredRound(self._store_rows("user", one.rows), one.asks) for one in made.rounds]
            held_out = None if made.held_out is None else self._store_rows("held-out", made.held_out)
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
        for name, stored in (("attacker_benign", self.attacker_benign), ("attacker_harmful", self.attacker_harmful)):
            if stored is not None:
                named[name] = stored
        if self.look_alikes is not None:
            named["look_alikes"] = self.look_alikes
        if self.help is not None:
            named["help"] = self.help
        return {name: stored.sha256 for name, stored in named.items()}

    def _rows(self, sources: Sources, key: str) -> Dataset:
        several = sources if isinstance(sources, list) else [sources]
        parts = [_slice(self._loaded(one, key), one) for one in several]
        return parts[0] if len(parts) == 1 else concatenate_datasets(parts)

    def _prompts(self, source: Source, key: str) -> list[str]:
        # A set of prompts may be a text file, which has no columns for `fields` to name.
        if source.fields is None:
            found = read_prompts(self._path(source, key), source.ignore, subset=source.subset, split=source.split)
            return list(_slice(found, source))
        return [prompt[-1]["content"] for prompt in _slice(self._loaded(source, key), source)["prompt"]]

    def _loaded(self, source: Source, key: str) -> Dataset:
        path, choice = self._path(source, key), {"subset": source.subset, "split": source.split}
        return load_rows(path, source.fields, source.ignore, **choice)

    def _path(self, source: Source, key: str) -> str:
        return resolved_path(source.source, self._base, key)

    def _refusals(self, wanted: str | list[str]) -> list[str]:
        if isinstance(wanted, list):
            blank = [i for i, text in enumerate(wanted) if not text.strip()]
            if blank or not wanted:
                raise DataError(f"streams.refusals{f'.{blank[0]}' if blank else ''} is empty; give refusal sentences")
            return wanted
        if wanted == "default":
            return REFUSALS
        if wanted == "miniature:refusals":
            from mithridate.miniature import refusals

            return refusals()
        path = Path(resolved_path(wanted, self._base, "streams.refusals"))
        if not path.is_file():
            raise UsageError(f"streams.refusals: {path} does not exist; give a text file with one refusal a line")
        # Rows in JSON would be read as sentences, one a line, braces and all.
        if not path.name.removesuffix(".gz").endswith(".txt"):
            raise UsageError(f"streams.refusals: {path} is not named .txt; give a text file with one refusal a line")
        return read_prompts(path)

    def _store_rows(self, name: str, rows: Dataset) -> StoredRows:
        return self._store(name, (json.dumps(row, ensure_ascii=False) for row in rows))

    def _store_texts(self, name: str, texts: Sequence[str]) -> StoredRows:
        return self._store(name, (json.dumps(text, ensure_ascii=False) for text in texts))

    def _store(self, name: str, lines: Any) -> StoredRows:
        content = "".join(line + "\n" for line in lines).encode()
        digest = hashlib.sha256(content).hexdigest()
        # With the hash in its name, so that another recipe with the same --out overwrites none of these files.
        path = self._folder / f"{name}-{digest[:20]}.jsonl"
        # The contents are compared as well: a file that was altered since would stop the stages that read it.
        if not path.is_file() or file_hash(path) != digest:
            write_whole(path, content)
        return StoredRows(path=str(path), sha256=digest)


def _slice(rows: Any, source: Source) -> Any:
    """Return the wanted rows of a source, in its order."""
    end = len(rows) if source.size is None else source.start + source.size
    # Fewer rows than asked for would pass unnoticed and change n, and with it every figure.
    if source.start >= len(rows) or end > len(rows):
        raise UsageError(
            f"{source.source} has {len(rows)} rows, but the recipe takes rows {source.start + 1} to "
            f"{max(end, source.start + 1)}; lower `start` or `size`"
        )
    return rows.select(range(source.start, end)) if isinstance(rows, Dataset) else rows[source.start : end]


def stored_rows(stored: StoredRows) -> Dataset:
    """Read rows that `Inputs` wrote.

    Raises:
        DataError: If the file was altered since.
    """
    return Dataset.from_list(_lines(stored))


def stored_texts(stored: StoredRows) -> list[str]:
    """Read texts that `Inputs` wrote.

    Raises:
        DataError: If the file was altered since.
    """
    return _lines(stored)


def _lines(stored: StoredRows) -> list[Any]:
    path = Path(stored.path)
    if not path.is_file() or file_hash(path) != stored.sha256:
        raise DataError(f"{path} is missing or was altered during the run; run the same command again")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
