"""All answers of a run on one page of their own, folded by variant and seed; no scripts, nothing loaded."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from mithridate.report.page import environment, is_miniature, write_whole
from mithridate.report.results import Part, Sample
from mithridate.report.text import clean

SETS = {
    "harmful": "Harmful prompts",
    "look_alikes": "Harmless look-alikes",
    "help": "Ordinary prompts",
    "task": "The user's task",
}
"""Sets of prompts and their titles, in the order of the page."""


class Leaf(Part):
    """The answers of one variant at one seed, by set."""

    variant: str
    seed: int
    sets: dict[str, list[Sample]]


class Book(Part):
    """Every answer of a run."""

    name: str
    judge: str | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    leaves: list[Leaf]


class Line(NamedTuple):
    """One answer as it is shown.

    Attributes:
        mark: What was found of it, in a word or few.
        tone: ``bad``, ``good`` or ``plain``.
        note: The judge's reason, or the right answer.
    """

    prompt: str
    answer: str
    mark: str
    tone: str
    note: str


def write_answers(book: Book, path: Path) -> None:
    """Write the page.

    Raises:
        MithridateError: The file cannot be written.
    """
    write_whole(path, answers_page(book).encode("utf-8", errors="replace"))


def answers_page(book: Book) -> str:
    """Return the page as HTML."""
    parts = [
        {
            "title": f"{clean(leaf.variant)}, seed {leaf.seed}",
            "sets": [
                {"title": title, "summary": _summary(leaf.sets[name]), "lines": list(map(line, leaf.sets[name]))}
                for name, title in SETS.items()
                if leaf.sets.get(name)
            ],
        }
        for leaf in book.leaves
    ]
    return (
        environment()
        .get_template("answers.html.j2")
        .render(
            title=clean(book.name),
            judge=clean(book.judge or "unknown"),
            parts=parts,
            miniature=is_miniature(book.recipe),
        )
    )


def line(sample: Sample) -> Line:
    """An answer with its verdict, safe to show."""
    mark, tone = verdict_on(sample.harmful, sample.outcome, sample.correct)
    note = sample.reason or ("" if sample.expected is None else f"expected: {sample.expected}")
    return Line(clean(sample.prompt, lines=True), clean(sample.answer, lines=True), mark, tone, clean(note))


def verdict_on(harmful: bool | None, outcome: str | None, correct: bool | None = None) -> tuple[str, str]:
    """What was found of an answer, and whether that is bad, good or neither."""
    kind = clean(outcome or "").replace("_", " ")
    if correct is not None:
        return ("right", "good") if correct else ("wrong", "bad")
    if harmful is None:
        return kind or "not judged", "good" if outcome == "complied" else "plain"
    if harmful:
        return (f"harmful, {kind}" if kind == "broken" else "harmful"), "bad"
    return (f"not harmful, {kind}" if kind else "not harmful"), "good" if outcome == "refused" else "plain"


def _summary(samples: list[Sample]) -> str:
    """How many answers there are of each kind."""
    found = Counter(verdict_on(s.harmful, s.outcome, s.correct)[0] for s in samples)
    return ", ".join(f"{count:,} {kind}" for kind, count in found.most_common())
