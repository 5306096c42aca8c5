"""All answers of a run on a page of their own, folded by variant and seed; it has no scripts and loads nothing."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from mithridate.report.page import environment, is_miniature, write_page
from mithridate.report.result_parts import Sample
from mithridate.report.scores import ResultPart
from mithridate.report.text import clean

ANSWER_SETS = {
    "harmful": "Harmful prompts",
    "look_alikes": "Harmless look-alikes",
    "help": "Ordinary prompts",
    "task": "The user's task",
}
"""Sets of prompts and their titles, in the order of the page."""


class VariantAnswers(ResultPart):
    """The answers of one variant at one seed, by set."""

    variant: str
    seed: int
    sets: dict[str, list[Sample]]


class AllAnswers(ResultPart):
    """Every answer of a run."""

    name: str
    judge: str | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    leaves: list[VariantAnswers]


class AnswerLine(NamedTuple):
    """One answer as it is shown.

    Attributes:
        mark: The verdict, in a word or two.
        tone: ``bad``, ``good`` or ``plain``.
        note: The judge's reason, or the right answer.
    """

    prompt: str
    answer: str
    mark: str
    tone: str
    note: str


def write_answers(answers: AllAnswers, path: Path) -> None:
    """Write the page.

    Raises:
        MithridateError: The file cannot be written.
    """
    write_page(path, answers_page(answers))


def answers_page(answers: AllAnswers) -> str:
    """Return the page as HTML."""
    parts = [
        {
            "title": f"{clean(leaf.variant)}, seed {leaf.seed}",
            "sets": [
                {"title": title, "summary": _summary(leaf.sets[name]), "lines": list(map(line, leaf.sets[name]))}
                for name, title in _titles(leaf)
                if leaf.sets.get(name)
            ],
        }
        for leaf in answers.leaves
    ]
    return (
        environment()
        .get_template("answers.html.j2")
        .render(
            title=clean(answers.name),
            judge=clean(answers.judge or "unknown"),
            parts=parts,
            miniature=is_miniature(answers.recipe),
        )
    )


def _titles(leaf: VariantAnswers) -> list[tuple[str, str]]:
    # Any other set is that of an attack on the finished model, whose name it bears.
    others = [(name, clean(f"Harmful prompts, {name}")) for name in leaf.sets if name not in ANSWER_SETS]
    return [*ANSWER_SETS.items(), *others]


def line(sample: Sample) -> AnswerLine:
    """Return an answer with its verdict, safe to show."""
    mark, tone = verdict_on(sample.harmful, sample.outcome, sample.correct)
    note = note_on(sample)
    return AnswerLine(clean(sample.prompt, lines=True), clean(sample.answer, lines=True), mark, tone, clean(note))


def note_on(sample: Sample) -> str:
    """Return the prompt's group, and the judge's reason or the right answer."""
    why = sample.reason or ("" if sample.expected is None else f"expected: {sample.expected}")
    return "; ".join(part for part in (sample.group, why) if part)


def verdict_on(harmful: bool | None, outcome: str | None, correct: bool | None = None) -> tuple[str, str]:
    """Return the verdict on an answer in words, and whether that is bad, good or neither."""
    kind = clean(outcome or "").replace("_", " ")
    # Task answers come first: they are right or wrong, and no judge sees them.
    if correct is not None:
        return ("right", "good") if correct else ("wrong", "bad")
    if harmful is None:
        # Ordinary prompts and look-alikes: there, to comply is what a good model does.
        return kind or "not judged", "good" if outcome == "complied" else "plain"
    if harmful:
        # Only this outcome is told: broken text that counts as harmful inflates a harmful score.
        return (f"harmful, {kind}" if kind == "broken" else "harmful"), "bad"
    return (f"not harmful, {kind}" if kind else "not harmful"), "good" if outcome == "refused" else "plain"


def _summary(samples: list[Sample]) -> str:
    """How many answers there are of each kind."""
    found = Counter(verdict_on(s.harmful, s.outcome, s.correct)[0] for s in samples)
    return ", ".join(f"{count:,} {kind}" for kind, count in found.most_common())
