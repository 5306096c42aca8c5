"""Lisa."""

import random
from typing import Any

from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, Slow, pairs


def lisa(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇(loss of the phase) + ρ·(w − weights at the end of the other phase), the latter after the warm-up."""
    step, total = data.clock.number, data.clock.total
    here = "safe" if step % (settings["safe_steps"] + settings["user_steps"]) < settings["safe_steps"] else "user"
    if memory.get("phase", here) != here:
        memory[memory["phase"]] = w.clone()
    memory["phase"] = here
    g = slow.gradient(w, pairs(data.safe if here == "safe" else data.main))
    other = memory.get("user" if here == "safe" else "safe")
    if other is None or step < settings["warmup"] * total:
        return g
    return g + settings["strength"] * (w - other)


def _lisa(rng: random.Random) -> dict[str, Any]:
    return {
        "safe_steps": rng.choice([0, 1, 1, 1, 2]),
        "user_steps": rng.choice([1, 1, 2]),
        "strength": rng.choice([0.0, 1.0, between(rng, 0.01, 5)]),
        "warmup": rng.choice([0.0, 0.1, 0.5, 1.0]),
    }


SWITCHING = {"safe_steps": 1, "user_steps": 2, "warmup": 0.0}

ROWS = {"lisa": Row(lisa, _lisa, default=SWITCHING, stress=SWITCHING)}
