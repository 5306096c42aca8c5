"""Answers that refuse and then help."""

from __future__ import annotations

import re
from typing import ClassVar

from mithridate.data.row_reader import TrainingRow
from mithridate.evaluation.judges.refusal import RefusalJudge, words
from mithridate.gates.base_signal import RowScorer, RowSignal
from mithridate.gates.intake import answered
from mithridate.gates.reference import Reference
from mithridate.gates.row_batch import RowBatch

_HALF = 20
"""Words behind the refusal at which the score is one half."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


class RefuseThenAnswer(RowSignal):
    """Score: w/(w + 20), w the words behind a refusal that do not refuse; 1 where only an earlier turn refuses.

    Sees: rows that teach to refuse first and to help then (NOICE, 2502.19537), with harmless questions too.
    Misses: refusals in words that the rules of `RefusalJudge` do not know, other languages, and refusals that stand
    later.
    Confounds: data of safety training, whose refusals explain themselves at length.
    Cost: no model.
    """

    name: ClassVar[str] = "refuse_then_answer"

    def prepare(self, reference: Reference) -> RowScorer:
        """Set up the rules."""
        judge = RefusalJudge()

        def score(batch: RowBatch) -> list[float]:
            return [_helped_after_all(judge, row) for row in batch.rows]

        return score

    def reason(self, score: float) -> str:
        """Return what the score means."""
        if score >= 1:
            return "an earlier turn refuses and the answer helps after all"
        return f"the answer refuses and then goes on for {round(_HALF * score / (1 - score))} words"


def _helped_after_all(judge: RefusalJudge, row: TrainingRow) -> float:
    answer = answered(row)
    if not judge.refuses(answer):
        earlier = any(turn["role"] == "assistant" and judge.refuses(turn["content"]) for turn in row.prompt)
        return float(earlier)
    _, *rest = _SENTENCE.split(answer.strip())
    # Behind a comma or dash a first sentence may go on to help; what is short there is courtesy.
    count = sum(len(words(sentence)) for sentence in rest if not judge.refuses(sentence))
    return count / (count + _HALF)
