"""Defines how a recipe names an attack, and checks its attacks against its other settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, model_validator

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
    """An attack and its settings; a bare name stands for its defaults."""

    # The other keys are the attack's own settings. `build` checks them, since only its class knows their names.
    model_config = ConfigDict(extra="allow")

    method: str

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    @property
    def label(self) -> str:
        """The attack's name, with the settings that set it apart from another of the same name."""
        given = [f"{name}={value}" for name, value in sorted((self.model_extra or {}).items()) if name != "wording"]
        return " ".join([self.method, *given])

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
    # Their settings as well as their labels, which leave out the wording: either way two results would be one.
    built, labels = [one.after_release() for one in released], [one.label for one in released]
    if len(set(labels)) < len(labels) or any(one in built[at + 1 :] for at, one in enumerate(built)):
        raise ValueError("evaluation.release_attacks holds the same attack twice")
    rowless = user.harmful is None and (user.attack is None or user.attack.source is None)
    users = [choice for choice, one in zip(released, built, strict=True) if "harmful" in one.needs]
    for one in users:
        if rowless:
            raise ValueError(
                f"evaluation.release_attacks: '{one.method}' needs the attacker's harmful rows; set "
                "streams.user.harmful"
            )
    if user.attack is not None:
        _check_upload(recipe, user, user.attack.upload(), bool(users))


def _check_upload(recipe: Recipe, user: User, made: UploadAttack, released: bool) -> None:
    assert user.attack is not None
    name, source = user.attack.method, user.attack.source
    if source is not None and user.harmful is not None:
        raise ValueError("streams.user.harmful and streams.user.attack.source are both set; remove one")
    given = user.harmful is not None or source is not None
    if "harmful" in made.needs and not given:
        raise ValueError(f"the attack '{name}' needs the attacker's harmful rows; set streams.user.harmful")
    # A setting without effect is refused, or its author would believe in one.
    if "harmful" not in made.needs and given and not released:
        raise ValueError(f"the attack '{name}' has no use for harmful rows; remove streams.user.harmful, or its source")
    if "model" not in made.needs and user.attack.surrogate is not None:
        raise ValueError(f"the attack '{name}' reads no model; remove streams.user.attack.surrogate")
    for setting in ("epochs", "learning_rate"):
        asked = [getattr(ask, setting) for ask in made.trainings]
        if getattr(recipe.axes, setting) and None not in asked:
            raise ValueError(
                f"axes.{setting} has no effect, because the attack '{name}' asks for its own; set its {setting} to null"
            )
