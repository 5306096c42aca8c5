"""Write what papers report, from the cards, to where an installed package finds it.

    python -m tools.published_figures

A card may hold dozens of figures; of each method the first setting is taken, with its harmful score and accuracy.
"""

import json
from pathlib import Path
from typing import Any

from tools.cards import read_cards

CARDS = Path("cards")
TARGET = Path("src/mithridate/planning/published.json")
METRICS = ("harmful_score", "finetune_accuracy")


def entries() -> list[dict[str, Any]]:
    """Return the figures of all methods, in the order of their names."""
    found: list[dict[str, Any]] = []
    for name, card in sorted(read_cards(CARDS).items()):
        told = [figure for figure in card.reported if figure.metric in METRICS]
        found += [
            {
                "method": name,
                "metric": figure.metric,
                "value": figure.value,
                "undefended": figure.undefended,
                "setting": figure.setting,
                "source": figure.source,
            }
            for figure in told
            if figure.setting == told[0].setting
        ]
    return found


def text() -> str:
    """Return the file's content."""
    return json.dumps(entries(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
