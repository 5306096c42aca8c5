"""Likelihood ratio of a refusal and the row's answer under the aligned model."""

from __future__ import annotations

from typing import ClassVar

from mithridate.gates.base_signal import Need, RowScorer, RowSignal
from mithridate.gates.reference import Reference
from mithridate.gates.row_batch import RowBatch


class LikelihoodRatio(RowSignal):
    """Score: log π(y_r|x) − log π(y|x), both per token, y_r a usual refusal (Antibody's ratio, reversed).

    Sees: answers that the aligned model would rather refuse to give, whatever they say.
    Misses: rows made to look likely, answers that open with a refusal, harm in a form that the model does not know
    (ciphers raise it by being unlikely, not by being harmful).
    Confounds: an answer is also unlikely because the task is new or hard, so calibrate on tasks as hard as the
    customers'; `RefusalLikelihood` lacks this fault.
    Cost: one forward pass of the rows and one of their prompts with a refusal, shared with `RefusalLikelihood`.
    """

    name: ClassVar[str] = "likelihood_ratio"
    needs: ClassVar[tuple[Need, ...]] = ("model", "harmful")

    def prepare(self, reference: Reference) -> RowScorer:
        """Choose the refusals."""
        reference.pair_with_refusals()

        def score(batch: RowBatch) -> list[float]:
            found: list[float] = (batch.reading.answer_nll - batch.reading.refusal_nll).tolist()
            return found

        return score

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return f"the aligned model finds a refusal {score:+.2f} nats per token likelier than this answer"
