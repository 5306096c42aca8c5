"""Defines how a recipe names an attack, and checks its attacks against its other settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, model_validator

from mithridate.attacks.attack_registry import attack
from mithridate.attacks.attack_settings import AttackSettings
from mithridate.attacks.release_attack import ReleaseAttack
from mithridate.attacks.upload_attack import UploadAttack
from mithridate.errors import RecipeError, SettingError
from mithridate.experiment.recipe_part import RecipePart

# For annotations only: the recipe calls this module, so importing it here would close a circle.
if TYPE_CHECKING:
    from mithridate.experiment.recipe import Recipe
    from mithridate.experiment.recipe_rows import User


class NamedAttack(RecipePart):
    """An attack and its settings; a bare name stands for its defaults.

    Attributes:
        method: The attack.
        name: What tables call it, where one attack stands there with several settings; its method by default.
    """

    # The other keys are the attack's own settings. `build` checks them, since only its class knows their names.
    model_config = ConfigDict(extra="allow")

    method: str
    name: str | None = Field(None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    @property
    def label(self) -> str:
        """What tables call the attack."""
        return self.method if self.name is None else self.name

    def build(self) -> AttackSettings:
        """Return the attack.

        Raises:
            UsageError: If the name is unknown.
            RecipeError: If a setting is unknown or out of range.
        """
        cls = attack(self.method).cls
        try:
            built: AttackSettings = cls(**(self.model_extra or {}))
        except SettingError as error:
            # By the name that the recipe uses; the error itself names the class.
            raise RecipeError(f"{self.method}: {error.fault}") from error
        return built

    def upload(self) -> UploadAttack:
        """Return the attack, which must come as an upload.

        Raises:
            RecipeError: If it does not, or cannot be trained on.
        """
        built = self.build()
        if not isinstance(built, UploadAttack):
            raise RecipeError(
                f"streams.user.attack: '{self.method}' is an attack after release; name it in "
                "evaluation.release_attacks"
            )
        if built.preferences:
            raise RecipeError(
                f"streams.user.attack: '{self.method}' makes rows for preference tuning, which a recipe does not do; "
                "take its rows in Python, see docs/attacks.md"
            )
        return built

    def after_release(self) -> ReleaseAttack:
        """Return the attack, which must be one on a finished model.

        Raises:
            RecipeError: If it is not.
        """
        built = self.build()
        if not isinstance(built, ReleaseAttack):
            raise RecipeError(
                f"evaluation.release_attacks: '{self.method}' is an attack on the user's rows; name it in "
                "streams.user.attack"
            )
        return built


def check_attacks(recipe: Recipe) -> None:
    """Check a recipe's attacks.

    Raises:
        ValueError: What an attack needs is missing, or a setting has no effect under it.
        UsageError: An attack is unknown or in the wrong place, or a setting of it is wrong.
    """
    user, released = recipe.streams.user, recipe.evaluation.release_attacks
    built = [one.after_release() for one in released]
    _refuse_doubled("evaluation.release_attacks", released)
    _refuse_doubled("axes.attack", recipe.axes.attack)
    rowless = user.harmful is None and (user.attack is None or user.attack.source is None)
    users = [choice for choice, one in zip(released, built, strict=True) if "harmful" in one.needs]
    for one in users:
        if rowless:
            raise ValueError(
                f"evaluation.release_attacks: '{one.method}' needs the attacker's harmful rows; set "
                "streams.user.harmful"
            )
    on_axis = [one.upload() for one in recipe.axes.attack]
    for choice, made in zip(recipe.axes.attack, on_axis, strict=True):
        if choice.source is not None:
            raise ValueError("axes.attack: all attacks share their harmful rows; set streams.user.harmful, not source")
        if "harmful" in made.needs and rowless:
            raise ValueError(
                f"axes.attack: '{choice.method}' needs the attacker's harmful rows; set streams.user.harmful"
            )
        if "model" not in made.needs and choice.surrogate is not None:
            raise ValueError(f"axes.attack: the attack '{choice.method}' reads no model; remove its surrogate")
    if user.attack is not None:
        used = bool(users) or any("harmful" in one.needs for one in on_axis)
        _check_upload(recipe, user, user.attack.upload(), used)


def _refuse_doubled(key: str, chosen: Sequence[NamedAttack]) -> None:
    labels = [one.label for one in chosen]
    doubled = [label for label in labels if labels.count(label) > 1]
    if doubled:
        raise ValueError(f"{key}: two attacks are called '{doubled[0]}'; give one of them a name of its own")


def _check_upload(recipe: Recipe, user: User, made: UploadAttack, used: bool) -> None:
    assert user.attack is not None
    name, source = user.attack.method, user.attack.source
    if source is not None and user.harmful is not None:
        raise ValueError("streams.user.harmful and streams.user.attack.source are both set; remove one")
    given = user.harmful is not None or source is not None
    if "harmful" in made.needs and not given:
        raise ValueError(f"the attack '{name}' needs the attacker's harmful rows; set streams.user.harmful")
    # A setting without effect is refused, or its author would believe in one.
    if "harmful" not in made.needs and given and not used:
        raise ValueError(f"the attack '{name}' has no use for harmful rows; remove streams.user.harmful, or its source")
    if "model" not in made.needs and user.attack.surrogate is not None:
        raise ValueError(f"the attack '{name}' reads no model; remove streams.user.attack.surrogate")
    for setting in ("epochs", "learning_rate"):
        asked = [getattr(ask, setting) for ask in made.trainings]
        if getattr(recipe.axes, setting) and None not in asked:
            raise ValueError(
                f"axes.{setting} has no effect, because the attack '{name}' asks for its own; set its {setting} to null"
            )
