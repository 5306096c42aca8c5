"""WiSE-FT."""

import random
from typing import Any

from tests.helpers.slow_llama import merged
from tests.matrix.row import Row, always
from tests.matrix.states import State, States
from tests.matrix.worlds import RowIds, World


def wise_ft(world: World, rows: list[RowIds], settings: dict[str, Any], origins: States) -> State:
    """(1 − α)·θ_aligned + α·θ_tuned."""
    tuned, a = merged(world.state, world.slow.scale), settings["alpha"]
    return {name: (1 - a) * origins["aligned"][name] + a * w for name, w in tuned.items()}


def _wise_ft(rng: random.Random) -> dict[str, Any]:
    return {"alpha": rng.choice([0.0, 0.5, 1.0, rng.random()])}


ROWS = {"wise_ft": Row(wise_ft, _wise_ft, ("alpha", "strength"), merges=always)}
