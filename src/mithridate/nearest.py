"""The nearest valid name to a wrong one, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the valid name that is most like a wrong one, whatever the case of its letters; None if none is near."""
    folded = {known.casefold(): known for known in names}
    near = difflib.get_close_matches(name.casefold().strip(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None


def did_you_mean(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """Return `did you mean 'x'?`, or the list of all valid names where none is near."""
    known = list(names)
    near = nearest(name, known, cutoff)
    return f"did you mean '{near}'?" if near else f"known: {', '.join(sorted(known))}"
