"""The matrix has one row per registered method, and nothing else."""

import re
from pathlib import Path

import mithridate
from mithridate.defenses.registry import methods
from tests.matrix.rows import ROWS


def test_every_registered_method_has_one_row():
    assert sorted(ROWS) == sorted(methods())


def test_every_method_has_a_docs_page():
    for info in methods().values():
        page = Path("docs/methods") / f"{info.cls.__module__.rsplit('.', 1)[1]}.md"
        assert f"`{info.name}`" in page.read_text(encoding="utf-8"), page


def test_rows_draw_settings_that_the_classes_take():
    import random

    for name, row in ROWS.items():
        for case in range(20):
            methods()[name].cls(**row.draw(random.Random(case)))


KNOWN_BY_NAME = {
    "sft": "the default of both training stages",
    "panacea": "the default of `mithridate repair`, and a claim of its paper that `compare` answers",
    "random_perturbation": "the control in that claim",
    "antidote": "a claim of its paper that `compare` answers",
}


def test_no_file_of_the_package_knows_a_method_but_its_own():
    """So that adding a method touches its file, its test row, its docs page and its card, and nothing else."""
    package = Path(mithridate.__file__).parent
    others = [path for path in package.rglob("*.py") if path.parent.name != "defenses"]
    others += [package / "defenses" / name for name in ("registry.py", "__init__.py")]
    source = {path: path.read_text(encoding="utf-8") for path in others}
    for name in methods().keys() - KNOWN_BY_NAME:
        naming = [path.name for path, text in source.items() if re.search(rf"""["'`]{name}["'`]""", text)]
        assert not naming, f"{name} is named in {naming}"


def test_methods_are_written_with_the_verbs_of_a_step_alone():
    """What a step is made of may change; its verbs are what a method's file, here or in a plug-in, is written with."""
    for path in (Path(mithridate.__file__).parent / "defenses").glob("*.py"):
        reached = re.findall(r"step\.(?:_\w+|likelihood)", path.read_text(encoding="utf-8"))
        assert not reached, f"{path.name} reaches through {reached}"
