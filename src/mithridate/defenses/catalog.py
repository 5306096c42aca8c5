"""What the defenses of this folder declare, read from their files without running them.

A defense's file imports torch, which takes seconds; a list of the defenses need not. The registration in each file
stays the only place where a defense is declared: its arguments are literals, and are read as such.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

from mithridate.registrations import Registration, registrations

_STAGES = ("alignment", "finetuning", "posttuning")  # as in `STAGES`, whose module imports torch


class Listing(NamedTuple):
    """One registration, as `mithridate methods` shows it; `Info` says what the fields mean.

    Attributes:
        class_name: The defense's class.
        module: The module that holds it.
        summary: First line of the class's docstring.
    """

    name: str
    class_name: str
    module: str
    summary: str
    stages: tuple[str, ...]
    paper: str
    forward: int
    backward: int
    streams: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    extra: str = ""


@cache
def listed() -> dict[str, Listing]:
    """Return the defenses of this folder by name, sorted by stage and name; plug-ins are not among them."""
    wanted = (*Listing._fields, "stage")
    found = [_listing(found) for found in registrations(Path(__file__).parent, "register", wanted)]
    return {listing.name: listing for listing in sort_by_stage(found)}


def sort_by_stage(listings: list[Listing]) -> list[Listing]:
    """Return listings in the order of their first stage, and of their name within it."""
    return sorted(listings, key=lambda listing: (_STAGES.index(listing.stages[0]), listing.name))


def _listing(found: Registration) -> Listing:
    values = dict(found.arguments)
    stage = values.pop("stage")
    return Listing(
        name=found.name,
        class_name=found.class_name,
        module=f"mithridate.defenses.{found.file}",
        summary=found.summary,
        stages=(stage,) if isinstance(stage, str) else stage,
        **values,
    )
