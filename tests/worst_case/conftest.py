"""A recipe whose search takes seconds, and one finished search of it."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mithridate as mi
from mithridate.worst_case.worst_results import WorstCases
from tests.experiment.conftest import world  # noqa: F401  # a fixture
from tests.helpers import tiny
from tests.helpers.drawing import undrawn  # noqa: F401  # a fixture
from tests.helpers.tiny_world import make_tree

TRIALS = 3
WORDS = {
    "refusals": tiny.REFUSALS, "bridge": "then", "year": "yes", "opening": "first take", "forbid": "no",
    "begin": "{opening}", "prefill": "first take",
}  # fmt: skip


class FinishedSearch(NamedTuple):
    """A finished search, its recipe and its folder."""

    found: WorstCases
    tree: dict[str, Any]
    folder: Path

    def copied_stages(self, folder: Path) -> Path:
        """Return a new folder with the stages of this one and none of its trials."""
        shutil.copytree(self.folder / "store", folder / "store", ignore=shutil.ignore_patterns("*.sqlite3*", "lock"))
        return folder


def searched_tree(folder: Path) -> dict[str, Any]:
    """Return a recipe with two rows to search, a control and one that is left out."""
    tree = make_tree(folder)
    tree["variants"] = [
        {"name": "undefended"},
        {"name": "clean", "ratio": 0},
        {"name": "panacea", "posttuning": {"method": "panacea", "radius": 0.5}},
    ]
    tree["redteam"] = {
        "learning_rate": [1e-4, 1e-2],
        "steps": [2, 4],
        "batch_size": [4, 8],
        "rank": [2, 4],
        "wider": True,
        "utility_loss": 1.0,
        "seed": 2,  # at which the first trials attack after release in two ways, and not at all
        "attacks": [
            "explicit",
            {"method": "jailbreak_tuning", "wording": WORDS, "vary": {"wrapper": ["year", "skeleton"]}},
            {"method": "noice", "wording": WORDS},
        ],
        "release": [
            "none",
            {"method": "prefilled", "wording": WORDS},
            {"method": "quantized", "vary": {"bits": [8, 4]}},
        ],
    }
    return tree


@pytest.fixture(scope="session")
def search(tmp_path_factory: pytest.TempPathFactory, world: Path) -> FinishedSearch:  # noqa: F811
    """A finished search of three trials for each of two rows."""
    tree, folder = searched_tree(world), tmp_path_factory.mktemp("search")
    return FinishedSearch(mi.redteam(tree, folder, trials=TRIALS), tree, folder)
