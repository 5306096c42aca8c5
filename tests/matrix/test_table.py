"""The matrix has one row per registered method, and nothing else."""

from pathlib import Path

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
