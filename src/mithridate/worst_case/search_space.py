"""What a search draws from: the ranges and attacks of a recipe, with the defaults filled in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mithridate.errors import RecipeError
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_attacks import NamedAttack
from mithridate.experiment.recipe_redteam import RedTeam, SearchedAttack
from mithridate.report.page import is_miniature

if TYPE_CHECKING:
    from optuna.trial import Trial

STEPS = [16, 64, 128, 256, 512]
RANKS = [8, 16, 32, 64]
WRAPPERS = ["year", "random_words", "random_paragraph", "skeleton", "refusal_suppression", "style"]
UNATTACKED = "none"
"""Name of a model that is asked as it was released."""


@dataclass(frozen=True)
class TrialSetting:
    """What one trial draws.

    Attributes:
        learning_rate: Of fine-tuning.
        steps: Optimizer steps of fine-tuning; None where epochs are searched.
        epochs: Epochs of fine-tuning; None where steps are searched.
        batch_size: Rows of an optimizer step.
        rank: Rank of fine-tuning's adapter; None where it is not searched.
        scheduler: Scheduler of the learning rate.
        attack: The attack that makes the upload.
        release: The attack on the finished model; None to ask it as it is.
    """

    learning_rate: float
    steps: int | None
    epochs: float | None
    batch_size: int
    rank: int | None
    scheduler: str
    attack: NamedAttack
    release: NamedAttack | None


class Space:
    """The ranges and attacks of one search.

    Attributes:
        ranges: The recipe's, with every default filled in.

    Args:
        recipe: The recipe.

    Raises:
        RecipeError: If a range has no effect under the recipe, or an attack lacks its harmful rows.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.ranges = _filled(recipe)
        _check(recipe, self.ranges)

    @property
    def attacks(self) -> list[SearchedAttack]:
        """Attacks that make the upload."""
        assert self.ranges.attacks is not None  # filled in, for type checkers
        return self.ranges.attacks

    @property
    def releases(self) -> list[SearchedAttack | None]:
        """Attacks on the finished model; None stands for asking it as it is."""
        assert self.ranges.release is not None
        return self.ranges.release

    def drawn(self, trial: Trial) -> TrialSetting:
        """Return what a trial of Optuna draws."""
        ranges, (low, high) = self.ranges, self.ranges.learning_rate
        rate = trial.suggest_float("learning_rate", low, high, log=True)
        steps = None if ranges.steps is None else trial.suggest_categorical("steps", ranges.steps)
        epochs = None if ranges.epochs is None else trial.suggest_categorical("epochs", ranges.epochs)
        return TrialSetting(
            learning_rate=rate,
            steps=steps,
            epochs=epochs,
            batch_size=trial.suggest_categorical("batch_size", ranges.batch_size),
            rank=None if ranges.rank is None else trial.suggest_categorical("rank", ranges.rank),
            scheduler=trial.suggest_categorical("scheduler", ranges.scheduler),
            attack=_one_of(trial, "attack", self.attacks),
            release=_one_of(trial, "release", [one for one in self.releases if one is not None])
            if self._released(trial)
            else None,
        )

    def _released(self, trial: Trial) -> bool:
        several = [one is not None for one in self.releases]
        # Without a choice there is nothing to draw, and a parameter with one value would only fill tables.
        if len(set(several)) == 1:
            return several[0]
        return bool(trial.suggest_categorical("after_release", [False, True]))


def _one_of(trial: Trial, key: str, attacks: list[SearchedAttack]) -> NamedAttack:
    named = {one.label: one for one in attacks}
    chosen = named[trial.suggest_categorical(key, list(named))]
    form = {
        setting: trial.suggest_categorical(f"{key}.{chosen.label}.{setting}", values)
        for setting, values in chosen.vary.items()
    }
    return chosen.formed(form)


def _filled(recipe: Recipe) -> RedTeam:
    given = recipe.redteam or RedTeam()
    filled: dict[str, Any] = {}
    if given.steps is None and given.epochs is None:
        filled["steps"] = STEPS
    if given.rank is None and recipe.adapter == "fresh":
        filled["rank"] = RANKS
    words: dict[str, Any] = {"wording": "miniature"} if is_miniature({"model": recipe.model}) else {}
    if given.attacks is None:
        wrapped = SearchedAttack(method="jailbreak_tuning", vary={"wrapper": WRAPPERS}, **words)
        plain = [SearchedAttack(method=name, **words) for name in ("explicit", "several_rounds", "noice")]
        filled["attacks"] = [plain[0], wrapped, *plain[1:]]
    if given.release is None:
        quantized = SearchedAttack(method="quantized", vary={"bits": [8, 4]})
        filled["release"] = [None, SearchedAttack(method="prefilled", **words), quantized]
    return given.model_copy(update=filled)


def _check(recipe: Recipe, ranges: RedTeam) -> None:
    if ranges.rank is not None and recipe.adapter != "fresh":
        raise RecipeError(
            f"redteam.rank has no effect with adapter '{recipe.adapter}': only a fresh adapter is the attacker's to "
            "choose; remove it, or set adapter to fresh"
        )
    if recipe.axes.values():
        raise RecipeError("axes have no effect on a search; remove them, or name values under redteam")
    needy = [
        one.method for one in (*(ranges.attacks or ()), *(ranges.release or ())) if one and "harmful" in _needs(one)
    ]
    if needy and recipe.streams.user.attacker is None:
        raise RecipeError(f"redteam: '{needy[0]}' needs the attacker's harmful rows; set streams.user.harmful")
    size = recipe.streams.user.size
    if not round(recipe.streams.user.ratio * size):
        raise RecipeError(f"a ratio of {recipe.streams.user.ratio:g} of {size} rows leaves nothing to attack with")


def _needs(one: SearchedAttack) -> set[str]:
    return {need for form in one.forms() for need in one.formed(form).build().needs}


def epochs_for(steps: int, rows: int, batch_size: int) -> float:
    """Return the epochs that are a number of optimizer steps, counted as the trainer counts them."""
    each = math.ceil(rows / batch_size)
    epochs = steps / each
    # The trainer rounds epochs · steps up, so that a last bit too much would be one more step.
    while math.ceil(epochs * each) > steps:
        epochs = math.nextafter(epochs, 0)
    return epochs
