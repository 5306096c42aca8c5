"""The structure of the package: imports run one way, and no name stands for two things."""

import ast
import graphlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import mithridate
from mithridate.experiment.manifest import deciding_files

ROOT = Path(mithridate.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "templates" not in path.parts)

LAYERS = [
    {"errors"},
    {"nearest", "files", "registrations", "lazy_names", "certificates"},
    {"validation", "miniature"},
    {"settings", "data"},
    {"model_names"},
    {"models"},
    {"evaluation", "training"},
    {"repair"},
    {"defenses", "attacks"},
    {"gates"},
    {"report"},
    {"experiment"},
    {"provider", "worst_case", "planning"},
    {"service"},
    {"cli"},
]
"""From the ground up: a room imports rooms below it, and of its own floor only itself."""

FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Rooms that a file imports, anywhere in it, and the lines on which it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "mithridate" and len(parts) > 1:
                yield parts[1], node.lineno


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} - {"__init__"} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    if path.parent == ROOT and path.name == "__init__.py":
        pytest.skip("the façade names everything")
    own = room(path)
    upward = [
        f"line {line}: {other}"
        for other, line in imported(path)
        if other in FLOOR and other != own and FLOOR[other] >= FLOOR[own]
    ]
    assert not upward


def loaded_with(path: Path) -> Iterator[str]:
    """Files that are imported when this one is; imports inside functions and for type checkers are not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mithridate"):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


NAMES_AND_WORDS = {
    "certificates",
    "errors",
    "nearest",
    "files",
    "registrations",
    "validation",
    "model_names",
    "lazy_names",
    "gates",
}
"""Rooms below the report that compute nothing a stage stores."""


def test_whatever_computes_decides_under_which_key_a_stage_is_stored():
    """A room that is added, or a file that moves, must not leave old results under the same key."""
    hashed = set(deciding_files(ROOT))
    rooms = {one for one, floor in FLOOR.items() if floor < FLOOR["report"]} - NAMES_AND_WORDS
    assert [path for path in FILES if room(path) in rooms and path not in hashed] == []
    assert all(path.is_file() for path in hashed)


WORDS_OF_STAGES = {"jobs", "meter", "recipe_parts", "stage_records"}
"""Files that a stage needs and that compute none of its results: what a job and a record say, and what it cost."""


def test_what_a_stage_runs_decides_under_which_key_it_is_stored():
    hashed = {path.relative_to(ROOT).as_posix() for path in deciding_files(ROOT)}
    needed = {name for path in ROOT.glob("experiment/*_stage.py") for name in loaded_with(path)}
    own = {name.rpartition(".")[2] for name in needed if name.rpartition(".")[0] == "mithridate.experiment"}
    assert {name for name in own if f"experiment/{name}.py" not in hashed} == WORDS_OF_STAGES


def test_no_two_files_need_each_other_first():
    modules = {".".join(("mithridate", *path.relative_to(ROOT).with_suffix("").parts)): path for path in FILES}
    sorter = graphlib.TopologicalSorter(
        {name: {other for other in loaded_with(path) if other in modules} for name, path in modules.items()}
    )
    sorter.prepare()  # raises CycleError


def test_no_file_name_twice():
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_class_name_twice():
    names = Counter(
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_files_stay_small():
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    assert lengths[len(lengths) // 2] < 170
    assert lengths[-1] <= 400


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_each_room_can_be_imported_alone(name):
    """A cycle between two rooms shows in whichever is imported first."""
    done = subprocess.run([sys.executable, "-c", f"import mithridate.{name}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
