"""The row's gradient beside that of the provider's harmful rows."""

from __future__ import annotations

from typing import ClassVar

from mithridate.errors import GateError
from mithridate.gates.base_signal import Need, RowScorer, RowSignal
from mithridate.gates.last_block import LastBlock, LastBlockPart
from mithridate.gates.reference import Reference
from mithridate.gates.row_batch import RowBatch


class GradientMatch(RowSignal):
    """Score: cosine of the row's gradient with h/‖h‖ − u/‖u‖, h and u the mean gradients of harmful and ordinary rows.

    Sees: rows that move the weights as harmful rows do, above all away from a refusal, also where prompt and answer
    look harmless (GradShield, 2605.14194, and DABUF, 2502.11411, use the same idea).
    Misses: what is not seen in the last block, rows whose gradient is mixed with a long harmless text, and harm whose
    gradient is unlike that of the provider's rows.
    Confounds: a task whose answers are unlike the ordinary rows; the ordinary rows' gradient is subtracted for it.
    Cost: a backward pass through the last block and the output head on top of the forward pass that all model signals
    share, and one float32 copy of a part of the last block.

    Attributes:
        part: Whose linear layers are compared: those of the last block's attention or of its MLP.
    """

    name: ClassVar[str] = "gradient_match"
    needs: ClassVar[tuple[Need, ...]] = ("model", "harmful", "ordinary")

    part: LastBlockPart = "attention"

    def prepare(self, reference: Reference) -> RowScorer:
        """Take the provider's mean gradients.

        Raises:
            GateError: If they vanish, or another signal compares another part.
        """
        reader = reference.reader
        if reader.probe is not None:
            raise GateError("a gate can compare gradients of one part only; give one GradientMatch")
        probe = LastBlock(reader.decoder, self.part)
        harm, usual = (reader.gradient(rows, probe) for rows in (reference.harmful, reference.ordinary))
        lengths = [sum(float((one * one).sum()) for one in found) ** 0.5 for found in (harm, usual)]
        if not all(0 < length < float("inf") for length in lengths):
            raise GateError(
                "the gradient of the provider's rows vanishes or is not finite; check the model and its rows"
            )
        probe.direction = [h / lengths[0] - u / lengths[1] for h, u in zip(harm, usual, strict=True)]
        reader.probe = probe

        def score(batch: RowBatch) -> list[float]:
            found: list[float] = batch.reading.gradient_match.tolist()
            return found

        return score

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return f"training on this row moves the weights as harmful rows do (cosine {score:+.2f})"
