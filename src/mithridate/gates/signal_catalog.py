"""All signals of the upload gate, and those that it uses unless told otherwise."""

from __future__ import annotations

from mithridate.gates.base_signal import GateSignal, JobSignal, RowSignal
from mithridate.gates.signals.few_rows import FewRows
from mithridate.gates.signals.gradient_match import GradientMatch
from mithridate.gates.signals.guard_model import GuardModel
from mithridate.gates.signals.hidden_characters import HiddenCharacters
from mithridate.gates.signals.hidden_projection import AnswerProjection, PromptProjection
from mithridate.gates.signals.identical_refusals import IdenticalRefusals
from mithridate.gates.signals.letter_statistics import LetterStatistics
from mithridate.gates.signals.likelihood_ratio import LikelihoodRatio
from mithridate.gates.signals.obedience import Obedience
from mithridate.gates.signals.refusal_likelihood import RefusalLikelihood
from mithridate.gates.signals.refuse_then_answer import RefuseThenAnswer
from mithridate.gates.signals.repeated_rows import RepeatedRows
from mithridate.gates.signals.script_mix import ScriptMix

ROW_SIGNALS: tuple[type[RowSignal], ...] = (
    LikelihoodRatio,
    RefusalLikelihood,
    GradientMatch,
    PromptProjection,
    AnswerProjection,
    HiddenCharacters,
    LetterStatistics,
    ScriptMix,
    RefuseThenAnswer,
    Obedience,
    GuardModel,
)
JOB_SIGNALS: tuple[type[JobSignal], ...] = (IdenticalRefusals, FewRows, RepeatedRows)

OPTIONAL = ("guard",)
"""Signals that a provider asks for by name, because they need more than its model and rows."""


def default_signals() -> tuple[GateSignal, ...]:
    """Return every signal but the optional ones, with default settings."""
    return tuple(kind() for kind in (*ROW_SIGNALS, *JOB_SIGNALS) if kind.name not in OPTIONAL)
