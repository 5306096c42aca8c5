"""Reads a policy file as a checked `Policy`, and writes the commented default."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mithridate.data.chat_template import BUILT_IN
from mithridate.errors import RecipeError, UsageError
from mithridate.experiment.recipe_file import read_tree
from mithridate.experiment.recipe_rows import resolved_path
from mithridate.experiment.strict_yaml import load_yaml
from mithridate.provider.policy_tree import Policy
from mithridate.validation import sentence

DEFAULT = "default_policy.yaml"


def opened(policy: str | Path | dict[str, Any] | Policy | None) -> tuple[Policy, Path]:
    """Return a policy and the folder in which its relative paths are looked up first.

    Args:
        policy: A policy, its file, its tree of settings, or None for the default one.

    Raises:
        RecipeError: Naming the key at fault, and the nearest valid name where a key is unknown.
    """
    if isinstance(policy, Policy):
        return policy, Path()
    if isinstance(policy, dict):
        return make_policy(policy), Path()
    if policy is None:
        return make_policy(load_yaml(default_text())), Path()
    return make_policy(read_tree(policy)), Path(policy).parent


def make_policy(tree: dict[str, Any]) -> Policy:
    """Check a tree of settings.

    Raises:
        RecipeError: Naming the key at fault, and the nearest valid name where a key is unknown.
    """
    try:
        return Policy.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(sentence(error, Policy)) from error
    except UsageError as error:
        # From a validator: pydantic turns a ValueError into its own error and lets any other through.
        raise RecipeError(str(error)) from error


def template_of(policy: Policy, base: Path) -> str | None:
    """Return the chat template that a policy names: a built-in one's name, or a file, looked up in a folder first.

    Args:
        policy: The policy.
        base: The folder, as `opened` returns it.
    """
    # A folder that is called as a built-in template hides none.
    if policy.template is None or policy.template in BUILT_IN:
        return policy.template
    return resolved_path(policy.template, base, "template")


def default_text() -> str:
    """Return the default policy with its comments, for the miniature."""
    return (files("mithridate.provider") / DEFAULT).read_text(encoding="utf-8")
