"""Put the table of attacks into docs/attacks.md, from their registrations.

Run ``python -m tools.attacks_table``; `make docs` does.
"""

import re
from pathlib import Path

from mithridate.attacks.attack_catalog import AttackListing, listed_attacks
from mithridate.report.table import Column, TableCell, markdown_table

PAGE = Path(__file__).parents[1] / "docs/attacks.md"
COLUMNS = [Column(title, numeric=False) for title in ("Attack", "Family", "What it is", "Needs", "Evades", "From")]


def table() -> str:
    """One line for each attack, in the order of their families."""
    return markdown_table(COLUMNS, [_line(listing) for listing in listed_attacks().values()]).strip()


def _line(listing: AttackListing) -> list[TableCell]:
    constants = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in listing.constants.items())
    cells = [
        listing.name,
        listing.family,
        listing.summary.replace("``", "").replace("`", ""),
        ", ".join(listing.needs) or "–",
        listing.evades,
        f"{listing.paper}; {constants}" if constants else listing.paper,
    ]
    return [TableCell(cell) for cell in cells]


def _shown(value: object) -> str:
    return f"{value[0]:g} to {value[1]:g}" if isinstance(value, list) else str(value)


def filled(text: str) -> str:
    """The page with the table between its two marks."""
    block = f"<!-- attacks -->\n{table()}\n<!-- /attacks -->"
    return re.sub(r"<!-- attacks -->.*?<!-- /attacks -->", lambda _: block, text, flags=re.S)


def main() -> None:
    """Write the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
