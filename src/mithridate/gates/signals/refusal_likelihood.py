"""How likely the aligned model is to refuse a row's prompt, whatever its answer."""

from __future__ import annotations

from typing import ClassVar

from mithridate.gates.base_signal import Need, RowScorer, RowSignal
from mithridate.gates.reference import Reference
from mithridate.gates.row_batch import RowBatch


class RefusalLikelihood(RowSignal):
    """Score: log π(y_r|x) per token, y_r a refusal that the model gives.

    Sees: prompts that the aligned model refuses. The answer has no part in it, so an answer that is merely long, hard
    or of a new task does not raise it.
    Misses: harm behind a harmless prompt, prompts in a cipher that the model does not read, and kinds of harm that the
    model was never taught to refuse.
    Cost: nothing beside `LikelihoodRatio`, whose pass over the refusals it reads.
    """

    name: ClassVar[str] = "refusal_likelihood"
    needs: ClassVar[tuple[Need, ...]] = ("model", "harmful")

    def prepare(self, reference: Reference) -> RowScorer:
        """Choose the refusals."""
        reference.pair_with_refusals()

        def score(batch: RowBatch) -> list[float]:
            found: list[float] = (-batch.reading.refusal_nll).tolist()
            return found

        return score

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return f"the aligned model refuses this prompt with {-score:.2f} nats per token"
