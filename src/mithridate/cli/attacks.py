"""The command ``mithridate attacks``."""

import json

from rich.console import Console
from rich.table import Table

from mithridate.attacks.attack_catalog import AttackListing, listed_attacks


def command(as_json: bool) -> None:
    """Print every attack."""
    listings = list(listed_attacks().values())
    if as_json:
        print(json.dumps([_row(listing) for listing in listings], indent=1, ensure_ascii=False))
        return
    table = Table(
        title="Attacks", caption="needs: beside a tokenizer; an upload with a ratio below 1 needs benign rows"
    )
    table.add_column("name", no_wrap=True)
    for column in ("family", "needs", "evades"):
        table.add_column(column, overflow="fold")
    for one in listings:
        table.add_row(one.name, one.family, ", ".join(one.needs) or "–", one.evades)
    Console().print(table)


def _row(listing: AttackListing) -> dict[str, object]:
    return {
        "name": listing.name,
        "family": listing.family,
        "paper": listing.paper,
        "needs": listing.needs,
        "evades": listing.evades,
        "constants": listing.constants,
        "summary": listing.summary,
    }
