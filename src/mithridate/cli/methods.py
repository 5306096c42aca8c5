"""The command ``mithridate methods``."""

import json

from rich.console import Console
from rich.table import Table

from mithridate.defenses.catalog import Listing, listed, sort_by_stage
from mithridate.defenses.plugins import any_named


def command(as_json: bool) -> None:
    """Print every defense."""
    listings = _listings()
    if as_json:
        print(json.dumps([_row(listing) for listing in listings], indent=1, ensure_ascii=False))
        return
    table = Table(title="Defenses", caption="passes: per optimizer step; after fine-tuning, over the rows it needs")
    table.add_column("name", no_wrap=True)
    table.add_column("passes\n(forward + backward)", justify="center")
    for column in ("stage", "needs", "paper"):
        table.add_column(column, overflow="fold")
    for listing in listings:
        passes = f"{listing.forward} + {listing.backward}" + (f"\n{listing.extra}" if listing.extra else "")
        needs = ", ".join((*listing.streams, *(f"{name} model" for name in listing.references)))
        table.add_row(listing.name, passes, ", ".join(listing.stages), needs or "–", listing.paper)
    Console().print(table)


def _listings() -> list[Listing]:
    """Return our own defenses from their catalog, which needs no torch, and those of plug-ins by importing them."""
    own = listed()
    if not any_named():
        return list(own.values())
    from mithridate.defenses.registry import methods

    foreign = [
        Listing(
            name=info.name,
            class_name=info.cls.__name__,
            module=info.cls.__module__,
            summary=info.summary,
            stages=info.stages,
            paper=info.paper,
            forward=info.forward,
            backward=info.backward,
            streams=info.streams,
            references=info.references,
            extra=info.extra,
        )
        for info in methods().values()
        if info.name not in own
    ]
    return sort_by_stage([*own.values(), *foreign])


def _row(listing: Listing) -> dict[str, object]:
    return {
        "name": listing.name,
        "stages": listing.stages,
        "paper": listing.paper,
        "passes": {"forward": listing.forward, "backward": listing.backward},
        "extra": listing.extra,
        "streams": listing.streams,
        "references": listing.references,
        "summary": listing.summary,
    }
