"""A recipe file, with overrides, as a checked `Recipe`; every fault is one sentence."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from mithridate.errors import RecipeError, UsageError
from mithridate.pipeline.recipe import Recipe


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe.

    Args:
        path: The file.
        overrides: ``a.b=value`` settings; values are YAML, list items are given by number.

    Raises:
        RecipeError: If the file is missing or no YAML, a key is unknown, or a value is out of range.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path} does not exist; give a recipe such as recipes/quickstart.yaml") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} is no readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds no settings; see recipes/quickstart.yaml for one that does")
    for override in overrides:
        _override(tree, override)
    return make_recipe(tree)


def make_recipe(tree: dict[str, Any]) -> Recipe:
    """Check a tree of settings.

    Raises:
        RecipeError: Naming the key at fault, and the nearest valid name where a key is unknown.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(sentence(error)) from error
    except UsageError as error:
        raise RecipeError(str(error)) from error


def _override(tree: Any, text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise RecipeError(f"--set {text!r} has no form a.b=value")
    *parents, last = key.split(".")
    node = tree
    for name in parents:
        node = _child(node, name, key)
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {key}: {value!r} is no YAML value") from error
    if isinstance(node, list):
        _child(node, last, key)
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise RecipeError(f"--set {key}: {'.'.join(parents)} has no settings below it")


def _child(node: Any, name: str, key: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(name, {})
    if isinstance(node, list) and name.isdigit() and int(name) < len(node):
        return node[int(name)]
    raise RecipeError(f"--set {key}: there is no '{name}' to set something in")


def sentence(error: ValidationError) -> str:
    """The first fault in one sentence, and how many more there are."""
    faults = error.errors()
    first = faults[0]
    where = ".".join(str(part) for part in first["loc"] if not str(part)[:1].isupper()) or error.title
    more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
    if first["type"] == "extra_forbidden":
        names = _names_beside(error.title, first["loc"])
        near = difflib.get_close_matches(str(first["loc"][-1]), names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(names))}"
        return f"unknown key '{where}'; {hint}{more}"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first.get("input"), (dict, list)) else f", got {first.get('input')!r}"
    return f"{where}: {message}{shown}{more}"


def _names_beside(title: str, location: tuple[Any, ...]) -> list[str]:
    """Valid names at the place of an unknown key."""
    from mithridate.defenses.registry import methods

    for info in methods().values():
        if info.cls.__name__ == title:
            return list(info.cls.model_fields)
    model: Any = Recipe
    for part in location[:-1]:
        found = _model_in(model.model_fields[part].annotation) if part in model.model_fields else None
        model = found or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)
