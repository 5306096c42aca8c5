"""A tiny model on disk, rows in files, and a recipe that runs in seconds."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mithridate as mi
from mithridate.report.results import Results
from tests.helpers.tiny_world import make_tree, make_world

TINY = Path(__file__).parents[2] / "recipes/compare/tiny.yaml"


class AxisRun(NamedTuple):
    """A finished run over axes and its folder."""

    results: Results
    folder: Path


@pytest.fixture(scope="session")
def axis_run(tmp_path_factory: pytest.TempPathFactory) -> AxisRun:
    """The shipped tiny axes, run once."""
    folder = tmp_path_factory.mktemp("axes") / "out"
    return AxisRun(mi.run(TINY, folder), folder)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a saved tiny model and JSONL files."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def tree(world: Path) -> dict[str, Any]:
    """A recipe as a tree of settings."""
    return make_tree(world)
