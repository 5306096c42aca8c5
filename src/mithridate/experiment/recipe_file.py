"""Reads a recipe file, with overrides, as a checked `Recipe`; every fault is one sentence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mithridate.data.row_faults import kind
from mithridate.defenses.plugins import load_plugins
from mithridate.errors import RecipeError, UsageError
from mithridate.experiment.axes import settings
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_rows import resolved_path
from mithridate.experiment.strict_yaml import load_yaml, read_yaml
from mithridate.validation import sentence


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe.

    Args:
        path: The file.
        overrides: ``a.b=value`` settings; values are YAML, list items are given by number.

    Raises:
        RecipeError: If the file is missing or not YAML, a key is unknown, or a value is out of range.
    """
    # Overrides go into the tree and are checked with it, so that they meet the same faults in the same words.
    tree = read_tree(path)
    for text in overrides:
        override(tree, text)
    return make_recipe(tree, Path(path).parent)


EXAMPLE = "recipes/quickstart.yaml"
"""Recipe that messages point to: it runs without network, GPU or data of one's own."""


def read_tree(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of settings, unchecked.

    Raises:
        RecipeError: If the file is missing, is not YAML, or holds no settings.
    """
    try:
        tree = read_yaml(Path(path))
    except FileNotFoundError as error:
        raise RecipeError(f"{path} does not exist; give a recipe such as {EXAMPLE}") from error
    if not isinstance(tree, dict):
        held = "is empty" if tree is None else f"holds {kind(tree)}, not settings (key: value)"
        raise RecipeError(f"{path} {held}; see {EXAMPLE} for one that can be run")
    return tree


def make_recipe(tree: dict[str, Any], folder: Path = Path()) -> Recipe:
    """Check a tree of settings, every setting of its axes included.

    Args:
        tree: The settings.
        folder: Folder in which the paths of its plug-ins are looked up first.

    Raises:
        UsageError: If a plug-in cannot be loaded.
        RecipeError: Naming the key at fault, and the nearest valid name where a key is unknown.
    """
    plugins = tree.get("plugins")
    # Loaded before the recipe is validated, since validation looks up the defenses that they register. What is not a
    # list of texts is left to pydantic to refuse.
    if isinstance(plugins, list):
        load_plugins(resolved_path(one, folder, "plugins") for one in plugins if isinstance(one, str))
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(sentence(error, Recipe)) from error
    except UsageError as error:
        # From a validator: pydantic turns a ValueError into its own error and lets any other through.
        raise RecipeError(str(error)) from error
    # For its checks only: a value on an axis must not be refused after hours of work on the others.
    settings(recipe)
    return recipe


def override(tree: Any, text: str) -> None:
    """Set one value of a tree of settings in place.

    Args:
        tree: The settings.
        text: ``a.b=value``.

    Raises:
        RecipeError: If it is not a.b=value, or the key cannot be reached.
    """
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise RecipeError(f"--set {text!r} must be a.b=value")
    *parents, last = key.split(".")
    # No schema is asked here: an unknown key is made, and validation then names the nearest valid one.
    node = tree
    for name in parents:
        node = _child(node, name, key)
    try:
        parsed = load_yaml(value)
    except (yaml.YAMLError, RecipeError) as error:
        raise RecipeError(f"--set {key}: {value[:60]!r} is not a YAML value") from error
    if isinstance(node, list):
        _child(node, last, key)  # refuses what is no number of an item
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise RecipeError(f"--set {key}: {'.'.join(parents)} has no settings below it")


def _child(node: Any, name: str, key: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(name, {})
    # isascii, because isdigit alone also takes "²", at which int() fails.
    if isinstance(node, list) and name.isascii() and name.isdigit() and int(name) < len(node):
        return node[int(name)]
    raise RecipeError(f"--set {key}: there is no '{name}' to set something in")
