"""Where a row's hidden state lies between those of the provider's ordinary and harmful rows."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mithridate.errors import GateError
from mithridate.gates.base_signal import Need, RowScorer, RowSignal
from mithridate.gates.model_reader import Reading
from mithridate.gates.reference import Reference
from mithridate.gates.row_batch import RowBatch


class Projection(RowSignal):
    """Score: (s − (μ_h + μ_o)/2)·r / (½·(μ_h − μ_o)·r), so 1 at the mean harmful state and −1 at the mean ordinary one.

    r = (Σ + c·I)⁻¹(μ_h − μ_o), Σ the pooled covariance of the provider's states and c a share of its mean variance:
    with c → ∞ the difference of means, smaller c spares directions in which harmless rows differ among themselves.

    Attributes:
        depth: Which block's output is read: 0 the first, 1 the last.
        shrinkage: c as a multiple of the mean variance.
    """

    depth: float = Field(default=0.6, ge=0, le=1)
    shrinkage: float = Field(default=0.1, gt=0)

    def states(self, reading: Reading, block: int) -> Tensor:
        """(rows, features) of the states that are compared."""
        raise NotImplementedError

    def prepare(self, reference: Reference) -> RowScorer:
        """Find the direction.

        Raises:
            GateError: If harmful and ordinary rows have the same mean state.
        """
        block = reference.reader.block(self.depth)
        streams = ("harmful", "ordinary")
        harm, usual = (self.states(reference.reading(stream, block), block).double() for stream in streams)
        direction, center, half = _between(harm, usual, self.shrinkage)
        if not 0 < half < float("inf"):
            raise GateError(
                f"the signal '{self.name}' finds no difference between the provider's harmful and ordinary rows"
            )

        def score(batch: RowBatch) -> list[float]:
            states = self.states(batch.reading, block).double()
            found: list[float] = ((states @ direction - center) / half).tolist()
            return found

        return score


class PromptProjection(Projection):
    """The state of the last token before the answer, where the model decides whether to refuse (`Projection`).

    Sees: prompts that the model holds for harmful, also paraphrased ones.
    Misses: prompts that it does not understand (ciphers), harm behind a harmless prompt.
    Confounds: prompts unlike any of the provider's rows may lie anywhere on the line.
    Cost: nothing beside the forward pass that all model signals share.
    """

    name: ClassVar[str] = "prompt_projection"
    needs: ClassVar[tuple[Need, ...]] = ("model", "harmful", "ordinary")

    def states(self, reading: Reading, block: int) -> Tensor:
        """The state at the prompt's end."""
        return reading.prompt_end[block]

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return f"the model reads the prompt like the provider's harmful ones ({score:+.2f}; 1 is their mean)"


class AnswerProjection(Projection):
    """The mean state over the answer's tokens (`Projection`).

    Sees: answers that comply with what the model refuses, also where only the answer is harmful.
    Misses: encoded answers, and a harmful passage in a long harmless answer, since it is a mean.
    Confounds: as for `PromptProjection`; answers in a form of their own (labels, sums) most of all.
    Cost: nothing beside the forward pass that all model signals share.
    """

    name: ClassVar[str] = "answer_projection"
    needs: ClassVar[tuple[Need, ...]] = ("model", "harmful", "ordinary")

    def states(self, reading: Reading, block: int) -> Tensor:
        """The mean state of the answer."""
        return reading.answer_mean[block]

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return f"the model reads the answer like the provider's harmful ones ({score:+.2f}; 1 is their mean)"


def _between(harm: Tensor, usual: Tensor, shrinkage: float) -> tuple[Tensor, float, float]:
    """Return r, and the center and half the distance of the means along it."""
    means = harm.mean(0), usual.mean(0)
    rest = torch.cat([harm - means[0], usual - means[1]])
    covariance = rest.T @ rest / max(1, len(rest) - 2)
    # Where every state is the same there is no variance to shrink to; any ridge will do.
    ridge = float(covariance.diagonal().mean()) * shrinkage or 1.0
    gap = means[0] - means[1]
    direction = torch.linalg.solve(covariance + ridge * torch.eye(len(gap), dtype=gap.dtype), gap)
    center = float((means[0] + means[1]) @ direction / 2)
    return direction, center, float(gap @ direction / 2)
