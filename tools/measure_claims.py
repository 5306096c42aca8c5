"""Write a comparison's answers into the cards: ``python -m tools.measure_claims runs/axes/comparison.json``.

Answers of the same command are replaced, those of other commands stay.
"""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from mithridate.compare.results import Comparison
from mithridate.compare.roles import Role
from tools.cards import Card, Claim, read_cards, write_card

from mithridate.cards import Card, Claim, read_cards, write_card

OWNERS = {
    "Antidote is insensitive to fine-tuning": ["antidote"],
    "Panacea beats noise": ["panacea"],
    "Row weights find harmful rows": ["antibody_tuning"],
}
"""Methods by the claims of their papers; what is said of alignment-stage defenses goes to those that were compared."""


def owners(name: str, comparison: Comparison) -> list[str]:
    """Methods whose cards a claim belongs to."""
    shielded = [pipeline.alignment for pipeline in comparison.pipelines if pipeline.role == Role.ALIGNMENT]
    return OWNERS.get(name, shielded)


def answered(cards: dict[str, Card], comparison: Comparison, committed: str | None) -> dict[str, Card]:
    """The cards that a comparison says something about, with its answers."""
    run, changed = comparison.run, dict(cards)
    for claim in comparison.claims:
        if claim.verdict == "not measured":
            continue
        answer = Claim(
            claim=claim.claim,
            verdict=claim.verdict,
            why=claim.sentence,
            command=run.command or "mithridate.compare",
            date=datetime.datetime.fromisoformat(run.created).date(),
            seeds=comparison.seeds,
            results=committed,
        )
        for name in owners(claim.name, comparison):
            kept = [c for c in changed[name].claims if (c.command, c.claim) != (answer.command, answer.claim)]
            changed[name] = changed[name].model_copy(update={"claims": [*kept, answer]})
    return {name: card for name, card in changed.items() if card != cards[name]}


def main(
    comparison: Annotated[Path, typer.Argument(help="comparison.json of `mithridate compare`.")],
    cards: Annotated[Path, typer.Option(help="Folder of the cards.")] = Path("cards"),
    committed: Annotated[str | None, typer.Option(help="Folder of its tables in the repository.")] = None,
) -> None:
    """Write the answers and say which cards changed."""
    found = Comparison.model_validate_json(comparison.read_text(encoding="utf-8"))
    for name, card in answered(dict(read_cards(cards)), found, committed).items():
        write_card(card, cards)
        print(f"{name}: {', '.join(f'{c.verdict} ({c.claim})' for c in card.claims)}")


if __name__ == "__main__":
    typer.run(main)
