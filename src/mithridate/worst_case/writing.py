"""Writes what a search found: JSON, a page, and a recipe that repeats each worst case."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mithridate.files import write_json, write_whole
from mithridate.worst_case.trial_recipe import worst_recipe
from mithridate.worst_case.worst_page import write_worst_page
from mithridate.worst_case.worst_reading import trial_of
from mithridate.worst_case.worst_results import WorstCases

if TYPE_CHECKING:
    from mithridate.worst_case.search import Search

RESULT, PAGE = "redteam.json", "redteam.html"


def write(found: WorstCases, search: Search) -> None:
    """Write the result of a search into its folder."""
    variants = {variant.name: variant for variant in search.rows.searched}
    for row in found.rows:
        path = search.folder / "worst" / f"{row.name}.yaml"
        if row.worst is None:
            # Of an earlier call, whose worst case no longer counts.
            path.unlink(missing_ok=True)
            continue
        setting = trial_of(search, row.name, row.worst.number)
        tree = _rooted(worst_recipe(search.recipe, variants[row.name], setting), search.base)
        text = f"# The worst case of {row.name}: mithridate run {path.name}\n" + yaml.safe_dump(tree, sort_keys=False)
        write_whole(path, text.encode())
    write_json(search.folder / RESULT, found.model_dump(mode="json"))
    write_worst_page(found, search.folder / PAGE)


def _rooted(tree: Any, base: Path) -> Any:
    """Return settings whose relative paths are found from any folder, as far as they name files beside the recipe."""
    if isinstance(tree, list):
        return [_rooted(one, base) for one in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: _placed(value, base) if _names_files(key, value) else _rooted(value, base) for key, value in tree.items()
    }


def _names_files(key: str, value: Any) -> bool:
    # A list of refusals holds sentences, and `default` is no file even where one has that name.
    return key in ("source", "plugins") or (key == "refusals" and isinstance(value, str) and value != "default")


def _placed(value: Any, base: Path) -> Any:
    if isinstance(value, list):
        return [_placed(one, base) for one in value]
    if isinstance(value, str) and value and not Path(value).is_absolute() and (base / value).exists():
        return str((base / value).resolve())
    return _rooted(value, base)
