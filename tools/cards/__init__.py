"""Cards: per method, what its paper reports, what was measured, and whether the two agree."""

from tools.cards.card import (
    Card,
    Claim,
    Measured,
    Paper,
    Reported,
    Share,
    Trial,
    agreement,
    agrees,
    claimed,
    trials,
)
from tools.cards.checks import Check, Checks, Evidence, named
from tools.cards.folder import check_cards, read_card, read_cards, write_card

__all__ = [
    "Card",
    "Check",
    "Checks",
    "Claim",
    "Evidence",
    "Measured",
    "Paper",
    "Reported",
    "Share",
    "Trial",
    "agreement",
    "agrees",
    "check_cards",
    "claimed",
    "named",
    "read_card",
    "read_cards",
    "trials",
    "write_card",
]
