"""Moderation row by row, which the upload gate is held against."""

from typing import ClassVar

from mithridate.evaluation.judges.refusal import RefusalJudge, words
from mithridate.gates.base_signal import RowScorer, RowSignal
from mithridate.gates.reference import Reference

_LIST = "bomb weapon kill hack steal illegal malware poison explosive drug fraud attack suicide racist virus exploit"
KEYWORDS = frozenset(_LIST.split())


class KeywordModeration(RowSignal):
    """Baseline: a word of a list stands in prompt or answer."""

    name: ClassVar[str] = "baseline_keywords"

    def prepare(self, reference: Reference) -> RowScorer:
        """Nothing is needed."""
        return lambda batch: [
            float(not KEYWORDS.isdisjoint(words(f"{p} {q}"))) for p, q in zip(batch.prompts, batch.answers, strict=True)
        ]

    def reason(self, score: float) -> str:
        """A word of the list."""
        return "a word of the list"


class RuleModeration(RowSignal):
    """Baseline: the rule judge calls the answer compliance."""

    name: ClassVar[str] = "baseline_rule_judge"

    def prepare(self, reference: Reference) -> RowScorer:
        """Set up the judge."""
        judge = RefusalJudge()
        return lambda batch: [float(verdict.harmful) for verdict in judge(batch.prompts, batch.answers)]

    def reason(self, score: float) -> str:
        """The answer complies."""
        return "the answer complies"
