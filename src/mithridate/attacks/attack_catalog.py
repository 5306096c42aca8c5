"""What the attacks of this folder declare, read from their files without running them."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.registrations import registrations

_FAMILIES = ("explicit", "harmless-looking", "encoded", "adaptive", "after release")  # as in `FAMILIES`


class AttackListing(NamedTuple):
    """One registration, as `mithridate attacks` shows it; `AttackInfo` says what the fields mean.

    Attributes:
        class_name: The attack's class.
        module: The module that holds it.
        summary: First line of the class's docstring.
    """

    name: str
    class_name: str
    module: str
    summary: str
    family: str
    paper: str
    needs: tuple[str, ...]
    evades: str
    constants: dict[str, Any]


@cache
def listed_attacks() -> dict[str, AttackListing]:
    """Return the attacks by name, sorted by family and name."""
    found = [
        AttackListing(
            name=one.name,
            class_name=one.class_name,
            module=f"mithridate.attacks.{one.file}",
            summary=one.summary,
            **{"constants": {}, **one.arguments},
        )
        for one in registrations(Path(__file__).parent, "register_attack", AttackListing._fields)
    ]
    found.sort(key=lambda listing: (_FAMILIES.index(listing.family), listing.name))
    return {listing.name: listing for listing in found}
