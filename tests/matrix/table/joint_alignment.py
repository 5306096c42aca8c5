"""Joint alignment."""

import random
from typing import Any

from torch import Tensor

from tests.matrix.row import Row
from tests.matrix.table import antibody
from tests.matrix.table.deep_alignment import deep_alignment
from tests.matrix.worlds import Data, Slow, pairs


def joint_alignment(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """(1 − m)·g_A + m·g_align."""
    tuned = antibody.antibody_tuning(slow, w, data, settings, memory)
    if settings["inner"] is None:
        aligned = slow.gradient(w, pairs(data.safe))
    else:
        aligned = deep_alignment(slow, w, data._replace(main=data.safe), settings["settings"], memory)
    return (1 - settings["share"]) * tuned + settings["share"] * aligned


def _joint_alignment(rng: random.Random) -> dict[str, Any]:
    inside = rng.choice([None, "deep_alignment"])
    return antibody.ROWS["antibody_tuning"].draw(rng) | {
        "share": rng.choice([0.0, 0.3, rng.uniform(0, 0.99)]),
        "inner": inside,
        "settings": {"strength": 0.4, "depth": 2, "shallow": 0.2} if inside else {},
    }


ROWS = {
    "joint_alignment": Row(
        joint_alignment, _joint_alignment, ("weight_max", "weight_effective_rows"),
        # What `auto` passes over before the first step is counted in Antibody's own row.
        default={"temperature": 1.0}, stress={"temperature": 2.0, "settings": {"shallow": 0.2}},
    ),
}  # fmt: skip
