"""Weights rounded to 8 or 4 bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.release_attack import AnsweringModel, ReleaseAttack, ReleaseInputs
from mithridate.errors import AttackError
from mithridate.models.merged_weights import MergedWeights
from mithridate.repair.rewriting import Rewrite


@register_attack(
    "quantized",
    family="after release",
    paper="Quantization after release, 2026 (arXiv:2605.15152); NF4: QLoRA (arXiv:2305.14314)",
    needs=(),
    evades="repairs whose change of a weight is smaller than half a step of the rounding",
    constants={"bits": 8, "block": 64},
)
class Quantized(ReleaseAttack):
    """Quantization: the decoder's linear weights rounded as a server rounds them, and computed with as rounded.

    8 bits: W ← s·round(W/s) with s = max|W|/127 for each output. 4 bits: NF4, each block of 64 weights divided by its
    greatest magnitude and rounded to the nearest of 16 quantiles of a normal distribution. Values are rounded but
    stored in the model's type, so that no library of kernels is needed; an adapter is merged first. Embeddings, norms
    and the output head stay as they are, as in bitsandbytes.

    Attributes:
        bits: Bits of a weight.
        block: Weights that share a scale, for 4 bits.
    """

    rewrites: ClassVar[bool] = True

    bits: Literal[4, 8] = 8
    block: int = Field(default=64, ge=2)

    @contextmanager
    def applied(self, model: Any, tokenizer: Any, inputs: ReleaseInputs) -> Iterator[AnsweringModel]:
        """Round the weights inside the block."""
        weights = MergedWeights(model)
        rewrite = Rewrite(weights)
        for name in weights.matrices:
            matrix = weights.matrix(name)
            rounded = int8(matrix) if self.bits == 8 else nf4(matrix, self.block)
            rewrite.put(name, weights.read(name), weights.turned(name, rounded))
        if not rewrite.tally.changed:
            raise AttackError(f"rounding to {self.bits} bits changed no weight; the model may be rounded already")
        yield AnsweringModel(model, tokenizer)


def int8(matrix: Tensor) -> Tensor:
    """Return a matrix (outputs, inputs) rounded to 255 levels, one scale for each output."""
    scale = matrix.abs().amax(dim=1, keepdim=True) / 127
    # A row of zeros has no scale, and stays.
    return torch.where(scale > 0, (matrix / scale.clamp_min(torch.finfo(matrix.dtype).tiny)).round() * scale, matrix)


def nf4(matrix: Tensor, block: int) -> Tensor:
    """Return a matrix rounded to 16 levels, one scale for each block of weights in the matrix's order."""
    flat = matrix.flatten()
    # Filled up with zeros, which no scale is taken from.
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % block)).reshape(-1, block)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    levels = nf4_levels().to(matrix)
    middles = (levels[1:] + levels[:-1]) / 2
    unit = blocks / torch.where(scale > 0, scale, torch.ones_like(scale))
    rounded = levels[torch.bucketize(unit, middles)] * scale
    return rounded.flatten()[: len(flat)].reshape(matrix.shape)


@cache
def nf4_levels() -> Tensor:
    """Return the 16 levels of NF4 in rising order, float64: 0 and ±1 are among them.

    QLoRA, appendix E: quantiles of N(0, 1) at equal steps, 8 on the positive side and 7 on the negative one, divided
    by the greatest.
    """
    outermost = 0.9677083  # (1 − 1/32 + 1 − 1/30) / 2, which leaves half a step beyond the last quantile
    positive = _quantiles(torch.linspace(outermost, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -_quantiles(torch.linspace(outermost, 0.5, 8, dtype=torch.float64)[:-1])
    levels = torch.cat([negative, torch.zeros(1, dtype=torch.float64), positive])
    ordered: Tensor = (levels / levels.max()).sort().values
    return ordered


def _quantiles(p: Tensor) -> Tensor:
    return 2**0.5 * torch.erfinv(2 * p - 1)
