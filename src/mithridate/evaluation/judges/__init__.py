"""Judges of answers: rules, a classifier, a chat endpoint."""

from mithridate.evaluation.judges.base import Judge, Verdict
from mithridate.evaluation.judges.chat import ChatJudge
from mithridate.evaluation.judges.classifier import ClassifierJudge
from mithridate.evaluation.judges.incoherence import incoherent
from mithridate.evaluation.judges.phrases import REFUSAL_OPENINGS
from mithridate.evaluation.judges.refusal import RefusalJudge

__all__ = [
    "REFUSAL_OPENINGS",
    "ChatJudge",
    "ClassifierJudge",
    "Judge",
    "RefusalJudge",
    "Verdict",
    "incoherent",
]
