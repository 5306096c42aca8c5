"""What decides a row's study: its trials say nothing about another recipe, other rows or other code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mithridate.experiment.identity import model_identity
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.manifest import code_versions
from mithridate.experiment.recipe import Recipe, Variant
from mithridate.experiment.recipe_rows import with_data_folder
from mithridate.models.loading import locate
from mithridate.worst_case.search_space import Space

_SEARCHING = ("prompt_halves.py", "search_space.py", "studies.py", "trial_recipe.py", "trial_score.py")
"""Files of this room that decide which trials are drawn and what they are worth."""

_OTHER = {"name", "save", "dtype", "variants", "reference", "redteam", "axes"}
"""Keys of a recipe that do not decide it; rows and ranges do so apart from the others."""


def identity_of_row(
    recipe: Recipe, row: Variant, control: Variant, space: Space, inputs: Inputs, own: Sequence[str]
) -> dict[str, str]:
    """Return the hash of everything that decides a row's trials, by part.

    Args:
        recipe: The recipe.
        row: The row.
        control: The undefended row, whose accuracy bounds the loss.
        space: What is searched.
        inputs: The recipe's rows.
        own: Keys of the stages of the row and of the control at the recipe's own setting, which cover what these stages
            read by path: plug-ins, a chat template, judges, groups of prompts.
    """
    room = Path(__file__).parent
    code = {name: (room / name).read_text(encoding="utf-8") for name in _SEARCHING}
    model = locate(with_data_folder(recipe.model, "model"), tokenizer=True)
    parts: dict[str, Any] = {
        "recipe": [recipe.model_dump(mode="json", exclude=_OTHER), row.model_dump(), control.model_dump()],
        "ranges": space.ranges.model_dump(mode="json"),
        "code": [code_versions(), code, version("optuna")],
        "rows": inputs.hashes(),
        "stages": list(own),
        # Whole sources, since a trial draws other rows than the recipe's own setting does, and may use harmful rows
        # that the own setting has no use for.
        "user": [inputs.user_benign.sha256, inputs.user_attack and inputs.user_attack.sha256],
        "model": model_identity(model),
    }
    return {name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in parts.items()}
