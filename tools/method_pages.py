"""Write docs/methods/<file>.md, one page per file of `mithridate.defenses`: ``python -m tools.method_pages``.

Every fact on a page has one home: what the method does and how it differs from its paper is the file's docstring,
stage, streams and cost are its registration, settings are the class's fields and docstrings, figures are the card,
and advice and limits are ``cards/notes/<file>.md``.
"""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from mithridate.defenses.registry import methods
from mithridate.errors import DataError
from mithridate.settings import Info
from tools.cards import Card, Check, Measured, Trial, named, read_cards, trials
from tools.method_facts import examples, facts, one_line, settings, shipped

ROOT = Path(__file__).parents[1]
CARDS, NOTES, PAGES = ROOT / "cards", ROOT / "cards" / "notes", ROOT / "docs" / "methods"
TEMPLATE = Path(__file__).parent / "templates" / "method.md.jinja"

METRICS = ("harmful_score", "finetune_accuracy", "over_refusal", "helpfulness")
ANSWERS = {True: "yes", False: "no", None: "–"}
"""Whether a check is passed."""


class Doc(NamedTuple):
    """A module's docstring in its parts."""

    title: str
    lead: str
    body: str
    differences: list[str]


def pages(infos: Mapping[str, Info], cards: Mapping[str, Card]) -> dict[str, str]:
    """Return the text of every page by the name of its file.

    Raises:
        DataError: If a method has no card or its file no docstring of the agreed form.
    """
    files: dict[str, list[Info]] = {}
    for info in shipped(infos).values():
        if info.name not in cards:
            raise DataError(f"{info.name}: no card; every method has one in cards/<name>.json")
        files.setdefault(info.cls.__module__.rpartition(".")[2], []).append(info)
    return {name: page(name, found, cards) for name, found in files.items()}


def page(name: str, infos: list[Info], cards: Mapping[str, Card]) -> str:
    """Return the page of one file and all methods in it."""
    doc = parse(inspect.getdoc(sys.modules[infos[0].cls.__module__]) or "", name)
    notes = NOTES / f"{name}.md"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **doc._asdict(),
        notes=notes.read_text(encoding="utf-8") if notes.exists() else "",
        methods=[_method(info, cards[info.name]) for info in infos],
        reported=[row for info in infos for row in _reported(cards[info.name])],
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def parse(text: str, name: str) -> Doc:
    """Split a docstring: "Title: what it does.", then paragraphs, of which one may start with "Differences".

    Raises:
        DataError: If the first line has no title.
    """
    first, _, rest = _linked(text).partition("\n\n")
    title, colon, lead = first.partition(": ")
    if not colon:
        raise DataError(f"{name}.py: the docstring must start with the method's name and a colon, got '{first[:60]}'")
    body, _, differences = f"\n\n{rest}".partition("\n\nDifference")
    said = re.sub(r"^s?\.?\s+", "", differences)
    return Doc(title, lead[:1].upper() + lead[1:], body.strip("\n"), [one_line(part) for part in _kinds(said)])


def _kinds(text: str) -> list[str]:
    """Cut "From the paper: … From the released code: …" at each origin."""
    return [part[:1].upper() + part[1:] for part in re.split(r"(?<=[.)])\s+(?=From )|\n\n", text) if part.strip()]


def _linked(text: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def _method(info: Info, card: Card) -> dict[str, Any]:
    recipe, python = examples(info)
    return {
        "name": info.name,
        "facts": list(facts(info, card.paper)),
        "settings": list(settings(info)),
        "recipe": recipe,
        "python": python,
        "agreement": card.agreement.capitalize(),
        "note": card.note,
        "claims": card.claims,
        "checks": [] if info.name == "sft" else [_check(name, check) for name, check in named(card.checks)],
        "measured": [_measured(trial) for trial in trials(card)],
    }


def _check(name: str, check: Check) -> tuple[str, str, str]:
    runs = "; ".join(dict.fromkeys(f"`{one.command}`, {one.date}" for one in check.evidence))
    why = f"{check.why} ({runs})" if runs else check.why
    return name.capitalize(), ANSWERS[check.passes], why.replace("|", r"\|")


def _measured(trial: Trial) -> list[str]:
    facts = trial.facts
    where = (
        f"{facts.variant}; {facts.setting}; `{facts.command}`, {facts.date}, seeds {', '.join(map(str, facts.seeds))}"
    )
    return [where.replace("|", r"\|"), *(_cell(trial.figures.get(metric)) for metric in METRICS)]


def _cell(figure: Measured | None) -> str:
    if figure is None:
        return "–"
    return f"{figure.value:.1f} [{figure.low:.1f}, {figure.high:.1f}] against {figure.undefended.value:.1f}"


def _reported(card: Card) -> Iterator[tuple[str, ...]]:
    for figure in card.reported:
        plain = "–" if figure.undefended is None else f"{figure.undefended:g}"
        source = f"{figure.source} ({figure.origin})"
        yield f"`{card.method}`", f"`{figure.metric}`", f"{figure.value:g}", plain, figure.setting, source


def main() -> None:
    """Write all pages, and remove those of files that are gone."""
    made = pages(methods(), read_cards(CARDS))
    for path in PAGES.glob("*.md"):
        if path.stem not in made:
            path.unlink()
    for name, text in made.items():
        (PAGES / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
