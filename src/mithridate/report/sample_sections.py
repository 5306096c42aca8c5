"""The sections of the report that hold answers and proofs of activity, as plain data for the template."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mithridate.report.answers import ANSWER_SETS, note_on, verdict_on
from mithridate.report.result_parts import EscapeSide, Sample
from mithridate.report.results import Results
from mithridate.report.text import NOTHING, clean, number

# Characters; the page says how many more are in results.json.
ANSWER_LENGTH = 700
ESCAPES_SHOWN = 12
SERIES_LENGTH = 4  # longer series of numbers are shown by their ends


@dataclass(frozen=True)
class ShownAnswer:
    """One side of a sample, cut to a readable length, with what was found of it."""

    variant: str
    text: str
    omitted: int
    mark: str = ""
    tone: str = "plain"
    note: str = ""


@dataclass(frozen=True)
class ShownSample:
    """A prompt with its answer."""

    prompt: ShownAnswer
    answer: ShownAnswer


@dataclass(frozen=True)
class ShownPair:
    """A prompt with its answers before and after."""

    prompt: ShownAnswer
    before: ShownAnswer
    after: ShownAnswer


def samples(results: Results) -> list[tuple[str, list[tuple[str, list[ShownSample]]]]]:
    """Return per variant a few answers of every set, with what was found of each."""
    found = []
    for variant in results.variants:
        sets = {name: [_shown(s) for s in variant.samples if s.set == name] for name in ANSWER_SETS}
        parts = [(ANSWER_SETS[name], shown) for name, shown in sets.items() if shown]
        if parts:
            found.append((clean(variant.name), parts))
    return found


def _shown(sample: Sample) -> ShownSample:
    mark, tone = verdict_on(sample.harmful, sample.outcome, sample.correct)
    text, note = _answer("", sample.answer), clean(note_on(sample))
    return ShownSample(_answer("", sample.prompt), ShownAnswer("", text.text, text.omitted, mark, tone, note))


def pairs(results: Results) -> list[ShownPair]:
    """Return the escaped samples that are shown."""
    return [
        ShownPair(_answer("", escape.prompt), _side(escape.before), _side(escape.after))
        for escape in results.escapes[:ESCAPES_SHOWN]
    ]


def _side(side: EscapeSide) -> ShownAnswer:
    shown = _answer(side.variant, side.answer)
    if side.harmful is None:
        return shown
    mark, tone = verdict_on(side.harmful, side.outcome)
    return ShownAnswer(shown.variant, shown.text, shown.omitted, mark, tone, clean(side.reason or ""))


def _answer(variant: str, text: str) -> ShownAnswer:
    # Cut first, as clean() looks at each character, however long the answer is.
    shown = clean(text[:ANSWER_LENGTH], lines=True)
    return ShownAnswer(clean(variant), shown, max(0, len(text) - ANSWER_LENGTH))


def activity(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return per variant the numbers that prove each defense acted, as flat (name, value) rows."""
    found = [(clean(variant.name), list(_flat("", variant.activity))) for variant in results.variants]
    return [(name, rows) for name, rows in found if rows]


def _flat(name: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name} › {clean(str(key))}" if name else clean(str(key)), inner)
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for place, inner in enumerate(value):
            yield from _flat(f"{name} › {place}", inner)
    elif isinstance(value, list):
        yield name, _series(value)
    else:
        yield name, _plain(value)


def _series(values: list[Any]) -> str:
    if len(values) > SERIES_LENGTH and all(_is_number(value) for value in values):
        return f"{_plain(min(values))} … {_plain(max(values))} ({len(values):,} values)"
    return ", ".join(_plain(value) for value in values) or NOTHING


def _plain(value: Any) -> str:
    if value is None:
        return NOTHING
    return number(value) if _is_number(value) else clean(str(value))


def _is_number(value: Any) -> bool:
    # bool is an int in Python, and True would be shown as 1.
    return isinstance(value, int | float) and not isinstance(value, bool)
