"""The attacker of a recipe: makes the upload of each ratio, size and seed."""

from typing import Any, NamedTuple

import torch
from datasets import Dataset

from mithridate.attacks.upload_attack import Round, UploadInputs
from mithridate.data import mix, split_rows
from mithridate.errors import UsageError
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_rows import UploadChoice, with_data_folder
from mithridate.models.loading import Where, load, load_tokenizer, locate


class MadeUpload(NamedTuple):
    """What the user hands in.

    Attributes:
        rounds: Uploads to train on, in order.
        held_out: Rows of the last one that are kept out of training.
    """

    rounds: list[Round]
    held_out: Dataset | None


class Attacker:
    """Makes uploads, poisoned with harmful rows or by the recipe's attack.

    Args:
        recipe: The recipe.
        benign: Rows of the user's own task.
        harmful: The attacker's harmful rows, if there are any.
    """

    def __init__(self, recipe: Recipe, benign: Dataset, harmful: Dataset | None) -> None:
        self._recipe, self._benign, self._harmful = recipe, benign, harmful
        self._models: dict[str | None, tuple[Any, Any]] = {}

    def upload(self, ratio: float, size: int, seed: int, attack: UploadChoice | None) -> MadeUpload:
        """Return the uploads.

        Args:
            ratio: Share of the attacker's rows.
            size: Number of rows.
            seed: Seed of the mixing.
            attack: The attack; None to mix harmful rows in as they are.

        Raises:
            UsageError: If there are too few rows, or the last upload is too small for the rows to hold out.
        """
        rounds = self._rounds(ratio, size, seed, attack)
        count = self._recipe.streams.user.held_out
        if not count:
            return MadeUpload(rounds, None)
        last = rounds[-1]
        if count >= len(last.rows):
            raise UsageError(
                f"streams.user.held_out is {count}, and the attack's last upload has {len(last.rows)} rows; lower it"
            )
        # Split after mixing, so that the held-out rows are as poisoned as the rest: a provider cannot tell them apart.
        split = split_rows(last.rows, count / len(last.rows), seed)
        return MadeUpload([*rounds[:-1], Round(split.kept, last.asks)], split.held_out)

    def _rounds(self, ratio: float, size: int, seed: int, attack: UploadChoice | None) -> list[Round]:
        if attack is None:
            assert self._harmful is not None  # `User` refuses a recipe with neither
            return [Round(mix(self._benign, self._harmful, ratio=ratio, size=size, seed=seed))]
        made = attack.upload()
        model, tokenizer = self._read(attack.surrogate) if "model" in made.needs and ratio else (None, None)
        inputs = UploadInputs(self._benign, self._harmful, ratio, size, seed, model, tokenizer)
        return list(made.rows(inputs).rounds)

    def _read(self, named: str | None) -> tuple[Any, Any]:
        """Return the model that the attacker can read, loaded once."""
        if named not in self._models:
            key = "model" if named is None else "streams.user.attack.surrogate"
            place = locate(with_data_folder(named or self._recipe.model, key), tokenizer=True)
            # The order of sums, and with it a choice between near rows, depends on the number of threads.
            torch.set_num_threads(self._recipe.threads)
            self._models[named] = load(Where(place, None), "float32"), load_tokenizer(place, self._recipe.template)
        return self._models[named]
