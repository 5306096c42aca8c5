"""A tiny model on disk, rows in files, and a recipe that runs in seconds."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mithridate as mi
from mithridate.experiment.recipe_file import read_recipe
from mithridate.report.results import Results
from tests.helpers.drawing import drawn, undrawn  # noqa: F401  # fixtures
from tests.helpers.tiny_world import make_tree, make_world

TINY = Path(__file__).parents[2] / "recipes/compare/tiny.yaml"


class AxisRun(NamedTuple):
    """A finished run over axes.

    Attributes:
        results: What it found.
        folder: Its folder.
        variants: Names of its variants.
        overrides: What it changes in the shipped recipe.
    """

    results: Results
    folder: Path
    variants: list[str]
    overrides: list[str]


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(["undefended", "antibody", "panacea"], id="three"),
        pytest.param([], id="all", marks=pytest.mark.slow),
    ],
)
def axis_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AxisRun:
    """The shipped tiny axes, run once: with three of its variants, and every night with all of them."""
    folder = tmp_path_factory.mktemp("axes") / "out"
    shipped = [variant.model_dump(exclude_unset=True) for variant in read_recipe(TINY).variants]
    kept = [variant for variant in shipped if variant["name"] in request.param]
    overrides = [f"variants={json.dumps(kept)}"] if kept else []
    names = [variant["name"] for variant in kept or shipped]
    return AxisRun(mi.run(TINY, folder, overrides=overrides), folder, names, overrides)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a saved tiny model and JSONL files."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def tree(world: Path) -> dict[str, Any]:
    """A recipe as a tree of settings."""
    return make_tree(world)
