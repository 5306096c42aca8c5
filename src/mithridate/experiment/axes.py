"""Expands a recipe's axes into settings, each with a recipe of its own."""

from typing import Any

from pydantic import ValidationError

from mithridate.errors import RecipeError, UsageError
from mithridate.experiment.recipe import Recipe
from mithridate.report.axis_results import Setting, plain_value
from mithridate.validation import sentence

_PLACES = {
    "ratio": ("streams", "user", "ratio"),
    "size": ("streams", "user", "size"),
    "learning_rate": ("finetuning", "learning_rate"),
    "epochs": ("finetuning", "epochs"),
    "alignment_learning_rate": ("alignment", "learning_rate"),
    "alignment_epochs": ("alignment", "epochs"),
}
"""Path of each number's own value in the recipe; the names are fields of `Setting` and of `Axes`."""


def setting_of(recipe: Recipe) -> Setting:
    """Return where a recipe lies on the axes."""
    tree = recipe.model_dump()
    chosen = recipe.streams.user.attack
    placed = {axis: _reached(tree, path[:-1])[path[-1]] for axis, path in _PLACES.items()}
    return Setting(**placed, attack=None if chosen is None else chosen.label)


def settings(recipe: Recipe) -> dict[Setting, Recipe]:
    """Return the recipe of every setting, the recipe's own setting first.

    Axes are varied one at a time. A variant with a harmful ratio of its own is left out of the other settings: its
    attack is not that of the axis.

    Raises:
        RecipeError: If a value of an axis cannot be used.
    """
    found = {setting_of(recipe): recipe}
    for axis, values in recipe.axes.values().items():
        for value in values:
            moved = _moved(recipe, axis, value)
            # An axis usually lists the recipe's own value too: that setting keeps its recipe, with all variants.
            found.setdefault(setting_of(moved), moved)
    return found


def _moved(recipe: Recipe, axis: str, value: float | str) -> Recipe:
    # Without axes: the recipe of one setting must not stand for the others again.
    tree = recipe.model_dump() | {"axes": {}}
    tree["variants"] = [variant for variant in tree["variants"] if variant["ratio"] is None]
    if not tree["variants"]:
        raise RecipeError(f"axes.{axis}: every variant has a harmful ratio of its own, so there is nothing to vary")
    # The reference may be one of those left out; a recipe that names a variant it lacks would be refused.
    if tree["reference"] not in [variant["name"] for variant in tree["variants"]]:
        tree["reference"] = None
    if axis == "attack":
        tree["streams"]["user"] |= _attacked(recipe, str(value))
    else:
        *parents, last = _PLACES[axis]
        _reached(tree, parents)[last] = value
    # Validated as a recipe, so that a value on an axis meets every check that the recipe's own value meets.
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"axes.{axis} = {plain_value(value)}: {sentence(error, Recipe)}") from error
    except UsageError as error:
        raise RecipeError(f"axes.{axis} = {plain_value(value)}: {error}") from error


def _attacked(recipe: Recipe, label: str) -> dict[str, Any]:
    """Return what changes under `streams.user` with an attack of the axis."""
    chosen = next(one for one in recipe.axes.attack if one.label == label)
    # Only where they are of use, since a recipe refuses rows that are not.
    used = {need for one in (chosen, *recipe.evaluation.release_attacks) for need in one.build().needs}
    rows = recipe.streams.user.attacker if "harmful" in used else None
    as_tree = [one.model_dump() for one in rows] if isinstance(rows, list) else rows and rows.model_dump()
    return {"attack": chosen.model_dump(), "harmful": as_tree}


def _reached(tree: dict[str, Any], path: Any) -> dict[str, Any]:
    for name in path:
        tree = tree[name]
    return tree
