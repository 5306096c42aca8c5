"""Judges of completions: rules, a classifier, a guard model, a chat endpoint."""

from mithridate.evaluation.judges.chat import ChatJudge
from mithridate.evaluation.judges.classifier import ClassifierJudge
from mithridate.evaluation.judges.guard import GuardJudge
from mithridate.evaluation.judges.judge import Judge, Verdict
from mithridate.evaluation.judges.phrases import REFUSAL_OPENINGS
from mithridate.evaluation.judges.refusal import RefusalJudge

__all__ = [
    "REFUSAL_OPENINGS",
    "ChatJudge",
    "ClassifierJudge",
    "GuardJudge",
    "Judge",
    "RefusalJudge",
    "Verdict",
]
