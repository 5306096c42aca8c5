"""The recipe of a trial: the recipe itself, with what the attacker chose."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from mithridate.errors import RecipeError, UsageError
from mithridate.experiment.recipe import Recipe, Variant
from mithridate.experiment.recipe_attacks import NamedAttack
from mithridate.validation import sentence
from mithridate.worst_case.search_space import TrialSetting, epochs_for

# Measured beside the harmful score and the task in an ordinary run; in a search they would be paid for in every trial.
_UNMEASURED = {"look_alikes": None, "help": None}


def own_recipe(recipe: Recipe, variant: Variant) -> Recipe:
    """Return the recipe with one variant, at its own setting, measured as a trial is."""
    tree = _narrowed(recipe, variant, {**_UNMEASURED, "release_attacks": []})
    chosen = recipe.streams.user.attack
    # Rows that only the recipe's attacks after release have a use for, which a trial replaces by its own.
    if chosen is not None and "harmful" not in chosen.build().needs:
        tree["streams"]["user"]["harmful"] = None
        tree["streams"]["user"]["attack"]["source"] = None
    return _validated(tree)


def trial_recipe(recipe: Recipe, variant: Variant, setting: TrialSetting) -> Recipe:
    """Return the recipe of a trial, which ``mithridate run`` could run as it is.

    Args:
        recipe: The recipe of the search.
        variant: The defense under attack.
        setting: What the trial draws.

    Raises:
        RecipeError: If the setting does not fit the recipe.
    """
    return _validated(attacked(recipe, _narrowed(recipe, variant, _UNMEASURED), setting))


def worst_recipe(recipe: Recipe, variant: Variant, setting: TrialSetting | None) -> dict[str, Any]:
    """Return a tree of settings that repeats a trial in full, with everything that the recipe measures."""
    tree = _narrowed(recipe, variant, {}) | {"save": recipe.save, "name": f"{recipe.name}-worst-{variant.name}"}
    made = _validated(tree if setting is None else attacked(recipe, tree, setting))
    return made.model_dump(mode="json")


def rows_recipe(recipe: Recipe, released: Sequence[NamedAttack]) -> Recipe:
    """Return a recipe with all rows that any trial under some attacks after release needs."""
    tree = _narrowed(recipe, recipe.variants[0], _UNMEASURED)
    tree["evaluation"]["release_attacks"] = [one.model_dump() for one in released]
    if recipe.streams.user.attacker is not None:
        tree["streams"]["user"] |= {"attack": None, "harmful": _harmful_rows(recipe)}
    return _validated(tree)


def attacked(recipe: Recipe, tree: dict[str, Any], setting: TrialSetting) -> dict[str, Any]:
    """Return a tree of settings with what the attacker chose."""
    user, tuned = recipe.streams.user, recipe.finetuning
    epochs = setting.epochs
    if setting.steps is not None:
        # Of an attack in several uploads every one takes as many epochs.
        epochs = epochs_for(setting.steps, user.size - user.held_out, setting.batch_size)
    tree["finetuning"] |= {
        "learning_rate": setting.learning_rate,
        "epochs": epochs,
        "batch_size": setting.batch_size,
        "accumulation": _accumulation(tuned.batch_size // tuned.accumulation, setting.batch_size),
        "scheduler": setting.scheduler,
    }
    # A warm-up is refused beside a constant rate.
    if setting.scheduler == "constant":
        tree["finetuning"]["warmup_steps"] = 0
    if setting.rank is not None:
        own = recipe.finetuning_lora or recipe.lora
        # α/r stays, so that a rank is not a learning rate in disguise.
        tree["finetuning_lora"] = own.model_dump() | {
            "rank": setting.rank,
            "alpha": own.alpha * setting.rank / own.rank,
        }
    tree["evaluation"]["release_attacks"] = [] if setting.release is None else [setting.release.model_dump()]
    tree["streams"]["user"] |= {"attack": setting.attack.model_dump(), "harmful": _harmful(recipe, setting)}
    return tree


def _narrowed(recipe: Recipe, variant: Variant, evaluation: dict[str, Any]) -> dict[str, Any]:
    tree = recipe.model_dump()
    tree |= {"variants": [variant.model_dump()], "reference": None, "redteam": None, "save": "none"}
    tree["evaluation"] |= evaluation
    return tree


def _harmful(recipe: Recipe, setting: TrialSetting) -> Any:
    """Return the attacker's harmful rows where they are of use, since a recipe refuses rows that are not."""
    chosen = [setting.attack, *([] if setting.release is None else [setting.release])]
    if not any("harmful" in one.build().needs for one in chosen):
        return None
    return _harmful_rows(recipe)


def _harmful_rows(recipe: Recipe) -> Any:
    rows = recipe.streams.user.attacker
    return [one.model_dump() for one in rows] if isinstance(rows, list) else rows and rows.model_dump()


def _accumulation(micro_batch: int, batch_size: int) -> int:
    """Return the fewest micro-batches that are no larger than the recipe's, and so need no more memory."""
    fewest = -(-batch_size // micro_batch)
    return next(count for count in range(fewest, batch_size + 1) if batch_size % count == 0)


def _validated(tree: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"a trial of the search: {sentence(error, Recipe)}") from error
    except UsageError as error:
        raise RecipeError(f"a trial of the search: {error}") from error
