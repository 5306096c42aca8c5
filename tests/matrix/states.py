"""State dicts of models that are compared, by plain names, float64, LoRA merged."""

from torch import Tensor

from tests.helpers.slow_llama import BLOCK_LINEARS
from tests.matrix.worlds import World

State = dict[str, Tensor]
States = dict[str, State]


def linears(world: World) -> list[str]:
    return [f"model.layers.{i}.{kind}.weight" for i in range(world.slow.layers) for kind in BLOCK_LINEARS]


def dot(a: Tensor, b: Tensor) -> float:
    return sum(float(x) * float(y) for x, y in zip(a.reshape(-1), b.reshape(-1), strict=True))
