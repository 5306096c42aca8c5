"""Write the answers of a run with axes into the cards: ``python -m tools.measure_claims runs/axes/results.json``.

Answers of the same command are replaced, those of other commands stay.
"""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from mithridate.errors import DataError
from mithridate.report.results import Results
from mithridate.report.results_file import load_results
from mithridate.report.roles import methods_at, only_defended_at
from tools.cards import Card, Claim, read_cards, write_card

OWNERS = {
    "Antidote is insensitive to fine-tuning": ["antidote"],
    "Panacea beats noise": ["panacea"],
    "Row weights find harmful rows": ["antibody_tuning"],
}
"""Methods by the claims of their papers; what is said of alignment-stage defenses goes to those that were compared."""


def owners(name: str, results: Results) -> list[str]:
    """Return the methods whose cards a claim belongs to."""
    shielded = [method for v in only_defended_at(results, "alignment") for method in methods_at(v, "alignment")]
    return OWNERS.get(name, shielded)


def answered(cards: dict[str, Card], results: Results, committed: str | None) -> dict[str, Card]:
    """Return the cards that a run says something about, with its answers.

    Raises:
        DataError: If the results do not say when and how they were made.
    """
    changed = dict(cards)
    if results.created is None or results.command is None:
        raise DataError("the results have no 'created' or no 'command'; write them again with `mithridate run`")
    for claim in results.claims:
        if claim.verdict == "not measured":
            continue
        answer = Claim(
            claim=claim.claim,
            verdict=claim.verdict,
            why=claim.sentence,
            command=results.command,
            date=datetime.datetime.fromisoformat(results.created).date(),
            seeds=results.seeds,
            results=committed,
        )
        for name in owners(claim.name, results):
            kept = [c for c in changed[name].claims if (c.command, c.claim) != (answer.command, answer.claim)]
            changed[name] = changed[name].model_copy(update={"claims": [*kept, answer]})
    return {name: card for name, card in changed.items() if card != cards[name]}


def main(
    results: Annotated[Path, typer.Argument(help="results.json of a run with axes.")],
    cards: Annotated[Path, typer.Option(help="Folder of the cards.")] = Path("cards"),
    committed: Annotated[str | None, typer.Option(help="Folder of its tables in the repository.")] = None,
) -> None:
    """Write the answers and say which cards changed."""
    for name, card in answered(dict(read_cards(cards)), load_results(results), committed).items():
        write_card(card, cards)
        print(f"{name}: {', '.join(f'{c.verdict} ({c.claim})' for c in card.claims)}")


if __name__ == "__main__":
    typer.run(main)
