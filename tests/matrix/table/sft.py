"""Plain fine-tuning."""

from typing import Any

from torch import Tensor

from tests.matrix.row import Row
from tests.matrix.worlds import Data, Slow, pairs


def sft(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """∇f(w)."""
    return slow.gradient(w, pairs(data.main))


ROWS = {"sft": Row(sft, lambda rng: {})}
