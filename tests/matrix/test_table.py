"""The matrix has one row per registered method, and nothing else."""

from mithridate.defenses.registry import methods
from tests.matrix.rows import ROWS


def test_every_registered_method_has_one_row():
    assert sorted(ROWS) == sorted(methods())


def test_rows_draw_settings_that_the_classes_take():
    import random

    for name, row in ROWS.items():
        for case in range(20):
            methods()[name].cls(**row.draw(random.Random(case)))
