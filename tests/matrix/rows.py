"""The row of every registered method."""

from typing import Any

from mithridate.defenses.registry import methods
from mithridate.training.defense import Defense
from tests.matrix import table

ROWS = table.rows()


def cut_and_shared() -> dict[str, tuple[str, dict[str, Any]]]:
    """Names of trainings that are cut and shared out, with the method and its settings: each method's, and more."""
    own = {name: (name, row.strained) for name, row in ROWS.items() if issubclass(methods()[name].cls, Defense)}
    return own | {
        "tar-dpo": ("tar", ROWS["tar"].strained | {"tamper": "dpo", "inner_steps": 2}),
        "antibody-fixed": ("antibody_tuning", {"temperature": 0.5}),
        "antibody-shared": ("antibody_alignment", ROWS["antibody_alignment"].strained | {"every": 3}),
    }
