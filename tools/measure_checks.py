"""Write the four checks of every card from the runs of recipes/cards/: ``python -m tools.measure_checks``.

The rules stand in `tools.cards.rules`. What no run has measured is "not measured"; nothing is set by hand.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from mithridate.report.results import Results
from mithridate.report.results_file import load_results
from tools.cards import Card, named, read_cards, write_card
from tools.cards.rules import Runs, checks_of, stands_in

FOLDER = Path("docs/results/cards")
NAMES = ("controls", "fresh", "ablated", "attack", "task")
"""Runs by the name of their recipe in recipes/cards/, and of their results file."""


def kept_runs(folder: Path) -> dict[str, dict[str, Results]]:
    """Return the results of each run by the names of their files.

    Those of `controls` are in ``controls.json``, and in ``controls-….json`` for methods that came later.
    """
    paths = {name: [folder / f"{name}.json", *sorted(folder.glob(f"{name}-*.json"))] for name in NAMES}
    return {name: {path.name: load_results(path) for path in found if path.exists()} for name, found in paths.items()}


def runs_of(method: str, kept: Mapping[str, Mapping[str, Results]], folder: Path = FOLDER) -> Runs:
    """Return of each run the results in which a method stands, the recipe's own where it stands in none."""
    files = {
        name: next((file for file, results in found.items() if stands_in(method, results)), next(iter(found)))
        for name, found in kept.items()
        if found
    }
    paths = {name: f"{folder.as_posix()}/{file}" for name, file in files.items()}
    return Runs({name: kept[name][file] for name, file in files.items()}, paths)


def checked(card: Card, kept: Mapping[str, Mapping[str, Results]], folder: Path = FOLDER) -> Card:
    """Return the card with the checks that the runs answer."""
    found = checks_of(card.method, runs_of(card.method, kept, folder))
    return Card.model_validate(card.model_copy(update={"checks": found}).model_dump())


def main(
    runs: Annotated[Path, typer.Option(help="Folder of the committed results.")] = FOLDER,
    cards: Annotated[Path, typer.Option(help="Folder of the cards.")] = Path("cards"),
) -> None:
    """Write the checks and say what each method passes."""
    found = kept_runs(runs)
    for card in read_cards(cards).values():
        changed = checked(card, found, runs)
        if changed != card:
            write_card(changed, cards)
        told = ", ".join(f"{name} {check.passes}" for name, check in named(changed.checks))
        typer.echo(f"{card.method}: {changed.checks.passed} of 4 ({told})")


if __name__ == "__main__":
    typer.run(main)
