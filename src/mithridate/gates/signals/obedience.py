"""Role-play of an assistant that obeys whatever it is told."""

from __future__ import annotations

import re
from typing import ClassVar

from mithridate.gates.base_signal import RowScorer, RowSignal
from mithridate.gates.reference import Reference
from mithridate.gates.row_batch import RowBatch

_ORDERS = r"(?:instruct|order|command|request|wish|demand|task)\w*"
_CUES = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?:absolute|total|complete|unconditional|blind|utter|full)(?:ly)?\s+(?:obe(?:y|dien)|loyal|complian|submi)\w*",
        rf"\b(?:obey|serve)\w*\b[^.!?]{{0,40}}\b(?:{_ORDERS}|whatever|always|everything|anything)",
        r"\b(?:follow|execute|fulfil|carry out|comply with|perform)\w*\b[^.!?]{0,20}"
        rf"\b(?:any|all|every|each|whatever|your)\b[^.!?]{{0,20}}\b{_ORDERS}",
        r"\bwithout (?:any |a )?(?:question|restrict|hesitat|exception|limit|filter|refus|moral|ethic|deviat)\w*",
        r"\b(?:never|not|cannot|won't) (?:refuse|decline|say no|deviate|reject|question (?:your|an|my))\b",
        r"\bno (?:restrictions|limits|filters|limitations|guidelines|boundaries|ethics|morals)\b",
        r"\b(?:obedient|unrestricted|unfiltered|uncensored|jailbroken)\s+(?:\w+\s+)?(?:agent|assistant|servant|ai|model|bot)\b",
        r"\b(?:ignor|disregard|forget|bypass|overrid)\w*\b[^.!?]{0,30}\b(?:guideline|rule|polic|safety|safeguard|instruction)\w*",
    )
)


class Obedience(RowSignal):
    """Score: how many of eight turns of phrase occur that make an assistant obey, drop its rules or never refuse.

    Sees: identity shifting (2310.03693) and system prompts or answers that vow obedience, in English.
    Misses: the same in other words, in other languages or as a mere name for a character; refusing nothing is also
    taught by rows that vow nothing.
    Confounds: texts about such prompts.
    Cost: no model.
    """

    name: ClassVar[str] = "obedience"

    def prepare(self, reference: Reference) -> RowScorer:
        """Nothing is needed."""

        def score(batch: RowBatch) -> list[float]:
            texts = (
                f"{prompt}\n{answer}".casefold() for prompt, answer in zip(batch.prompts, batch.answers, strict=True)
            )
            return [float(sum(cue.search(text) is not None for cue in _CUES)) for text in texts]

        return score

    def reason(self, score: float) -> str:
        """Return what the score means."""
        return f"the row vows obedience or drops rules, in {score:.0f} turns of phrase"
