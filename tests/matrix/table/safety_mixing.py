"""Safe rows beside the user's."""

import math
import random
from decimal import Decimal
from typing import Any

from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.worlds import Data, Slow, pairs


def safety_mixing(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇ of the mean over the tokens of the user's rows and the next safe rows, a share of all rows."""
    share = Decimal(repr(settings["share"]))
    before = memory.get("rows", 0)
    memory["rows"] = before + len(data.main)
    after, earlier = (math.floor(rows * share / (1 - share)) for rows in (memory["rows"], before))
    safe = after - earlier
    return slow.gradient(w, pairs([*data.main, *[*data.safe, *data.safer][:safe]]))


def vlguard(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇L(w) + λ·∇f(w)."""
    return slow.gradient(w, pairs(data.main)) + settings["strength"] * slow.gradient(w, pairs(data.safe))


def _mixing(rng: random.Random) -> dict[str, Any]:
    return {"share": rng.choice([0.0, 0.03, rng.uniform(0.1, 0.66), rng.uniform(0.1, 0.66)])}


def _extra(settings: dict[str, Any], steps: int, rows: int) -> tuple[int, int]:
    safe = math.floor(steps * rows * settings["share"] / (1 - settings["share"]))
    return safe, safe


ROWS = {
    "safety_mixing": Row(
        safety_mixing, _mixing, ("safe_rows",), default={"share": 0.3}, stress={"share": 0.3}, extra_rows=_extra
    ),
    "vlguard": Row(
        vlguard, lambda rng: {"strength": rng.choice([0.0, 1.0, between(rng, 0.01, 5)])}, ("extra_gradient_norm",)
    ),
}
