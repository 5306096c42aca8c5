"""``mithridate methods``."""

import json

from rich.console import Console
from rich.table import Table

from mithridate.defenses.registry import methods


def command(as_json: bool) -> None:
    """Print every registered defense."""
    if as_json:
        rows = [
            {
                "name": info.name,
                "stages": info.stages,
                "paper": info.paper,
                "passes": {"forward": info.forward, "backward": info.backward},
                "extra": info.extra,
                "streams": info.streams,
                "references": info.references,
                "summary": info.summary,
            }
            for info in methods().values()
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    table = Table(title="Defenses", caption="passes: per optimizer step; after fine-tuning, over the harmful rows")
    table.add_column("name", no_wrap=True)
    table.add_column("passes\n(forward + backward)", justify="center")
    for column in ("stage", "needs", "paper"):
        table.add_column(column, overflow="fold")
    for info in methods().values():
        passes = f"{info.forward} + {info.backward}" + (f"\n{info.extra}" if info.extra else "")
        needs = ", ".join((*info.streams, *(f"{name} model" for name in info.references)))
        table.add_row(info.name, passes, ", ".join(info.stages), needs or "–", info.paper)
    Console().print(table)
