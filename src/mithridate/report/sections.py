"""The parts of the report that hold figures, samples and proofs, as plain data for the template."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from markupsafe import Markup

from mithridate.report.answers import SETS, verdict_on
from mithridate.report.figures import doses, layers, losses, outcomes, scores, weights
from mithridate.report.results import (
    DoseCurve,
    EscapeSide,
    LayerProfile,
    LossCurve,
    Results,
    RowWeights,
    Sample,
    VariantResult,
)
from mithridate.report.text import NOTHING, clean, number, percent
from mithridate.report.weighing import separation

ANSWER_LENGTH = 700
ESCAPES_SHOWN = 12
SERIES_LENGTH = 4

Item = TypeVar("Item")


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and caption; `label` says in words what it shows."""

    title: str
    caption: str
    label: str
    svg: Markup


@dataclass(frozen=True)
class Answer:
    """One side of a sample, cut to a readable length, with what was found of it."""

    variant: str
    text: str
    omitted: int
    mark: str = ""
    tone: str = "plain"
    note: str = ""


@dataclass(frozen=True)
class Shown:
    """A prompt with its answer."""

    prompt: Answer
    answer: Answer


@dataclass(frozen=True)
class Pair:
    """A prompt with its answers before and after."""

    prompt: Answer
    before: Answer
    after: Answer


def score_figures(results: Results) -> list[Figure]:
    """Return the two figures over all variants; the first needs an accuracy."""
    bars = Figure(
        "Harmful score per variant",
        "Bars show the share of harmful answers with its 95% interval, dots the single seeds. "
        "The dashed line is the undefended model.",
        "Bars of harmful score per variant; the figures are in the main table.",
        Markup(scores.score_bars(results)),
    )
    if not any(variant.finetune_accuracy for variant in results.variants):
        return [bars]
    tradeoff = Figure(
        "Harmful score against task accuracy",
        "Lower is safer, further right is more useful. Arms are 95% intervals. "
        "Squares: undefended. Triangles: without attack. Circles: defended.",
        "Points of harmful score against fine-tune accuracy; the figures are in the main table.",
        Markup(scores.tradeoff(results)),
    )
    return [tradeoff, bars]


def outcome_figures(results: Results) -> list[Figure]:
    """Return one figure per set of prompts whose answers were classed."""
    found = []
    for name, (title, caption) in _OUTCOMES.items():
        if any(name in variant.outcomes for variant in results.variants):
            label = f"Bars of the outcomes of {SETS[name].lower()} per variant; the figures are in the table."
            found.append(Figure(title, caption, label, Markup(outcomes.outcome_figure(results, name))))
    return found


_OUTCOMES = {
    "harmful": (
        "Answers to harmful prompts",
        "Only refusals are safety. A label, too little or broken text is no harm, and no use either.",
    ),
    "look_alikes": (
        "Answers to harmless look-alikes",
        "Over-refusal counts the refusals; what is no refusal is not yet an answer.",
    ),
    "help": (
        "Answers to ordinary prompts",
        "What helpfulness counts is a part of the answers that comply: those that are right, where that is known.",
    ),
}


def loss_figures(results: Results) -> list[Figure]:
    """Return one figure per training stage, every training once, named after the variants that share it."""
    found = []
    for stage, title in (("alignment", "Alignment"), ("finetuning", "Fine-tuning")):
        groups = _trainings(results, stage)
        if groups:
            caption = (
                "Logged training loss, one line per training and seed. Each is the loss of its own method, so only the "
                "shape compares between methods."
            )
            drawing = Markup(losses.loss_figure(f"loss-{stage}", groups))
            found.append(Figure(title, caption, f"Training loss by step, {title.lower()}", drawing))
    return found


def _trainings(results: Results, stage: str) -> dict[str, list[LossCurve]]:
    """Curves of a stage by the names of the variants that share them."""
    names: dict[str, list[str]] = {}
    curves: dict[str, LossCurve] = {}
    for variant in results.variants:
        for curve in variant.loss_curves:
            if curve.stage == stage and curve.steps:
                key = curve.key or f"{variant.name} {curve.seed}"
                curves.setdefault(key, curve)
                if variant.name not in names.setdefault(key, []):
                    names[key].append(variant.name)
    found: dict[str, list[LossCurve]] = {}
    for key, curve in curves.items():
        found.setdefault(", ".join(map(clean, names[key])), []).append(curve)
    return found


def samples(results: Results) -> list[tuple[str, list[tuple[str, list[Shown]]]]]:
    """Return per variant a few answers of every set, with what was found of each."""
    found = []
    for variant in results.variants:
        sets = {name: [_shown(s) for s in variant.samples if s.set == name] for name in SETS}
        parts = [(SETS[name], shown) for name, shown in sets.items() if shown]
        if parts:
            found.append((clean(variant.name), parts))
    return found


def _shown(sample: Sample) -> Shown:
    mark, tone = verdict_on(sample.harmful, sample.outcome, sample.correct)
    note = sample.reason or (f"expected: {sample.expected}" if sample.expected is not None else "")
    text = _answer("", sample.answer)
    return Shown(_answer("", sample.prompt), Answer("", text.text, text.omitted, mark, tone, clean(note)))


def dose_figures(results: Results) -> list[Figure]:
    """Return one figure per variant, method and parameter, with all seeds in it."""
    groups = _grouped(
        ((place, variant, curve) for place, variant in enumerate(results.variants) for curve in variant.dose_curves),
        lambda item: (item[0], item[2].method, item[2].parameter),
    )
    groups = [group for group in groups if any(curve.points for _, _, curve in group)]
    return [_dose_figure(f"dose{i}", group[0][1], [c for _, _, c in group]) for i, group in enumerate(groups)]


def _dose_figure(name: str, variant: VariantResult, curves: list[DoseCurve]) -> Figure:
    chosen = [number(curve.chosen) for curve in curves if curve.chosen is not None]
    taken = f"Chosen: {', '.join(dict.fromkeys(chosen))} (ringed)." if chosen else "No dose was chosen."
    failed = f" No dose was chosen in {len(curves) - len(chosen)} of {len(curves)} seeds."
    title = _title(curves[0].method, variant)
    caption = taken + (failed if 0 < len(chosen) < len(curves) else "") + " One line per seed."
    drawing = doses.dose_figure(name, [curve for curve in curves if curve.points])
    return Figure(title, caption, f"Dose curve of {title}", Markup(drawing))


def _title(method: str, variant: VariantResult) -> str:
    return clean(method) if method == variant.name else f"{clean(method)} in {clean(variant.name)}"


def layer_figures(results: Results) -> list[Figure]:
    """Return one figure per variant and method, with all seeds in it."""
    groups = _grouped(
        (
            (place, variant, profile)
            for place, variant in enumerate(results.variants)
            for profile in variant.layer_profiles
            if profile.layers and (profile.factor_norm or profile.delta_norm)
        ),
        lambda item: (item[0], item[2].method, tuple(item[2].layers)),
    )
    return [_layer_figure(f"layer{i}", group[0][1], [p for _, _, p in group]) for i, group in enumerate(groups)]


def _layer_figure(name: str, variant: VariantResult, profiles: list[LayerProfile]) -> Figure:
    title = _title(profiles[0].method, variant)
    caption = "Norm of the perturbation per layer: bars are means over seeds, dots single seeds."
    return Figure(title, caption, f"Layer profile of {title}", Markup(layers.layer_figure(name, profiles)))


def weight_figures(results: Results) -> list[Figure]:
    """Return one figure per variant that weighted its rows."""
    weighted = [(v, v.row_weights) for v in results.variants if v.row_weights and v.row_weights.rows]
    return [
        Figure(
            clean(variant.name),
            _weight_caption(rows),
            f"Histogram of row weights in {clean(variant.name)}",
            Markup(weights.weight_figure(f"weight{place}", rows)),
        )
        for place, (variant, rows) in enumerate(weighted)
    ]


def _weight_caption(rows: RowWeights) -> str:
    seed = f"Seed {rows.seed}. " if rows.seed is not None else ""
    found = separation(rows)
    if found is None:
        return f"{seed}Both labels are needed to say how well the weights separate harmful rows."
    unknown = f" {found.unknown:,} rows have no known label." if found.unknown else ""
    return (
        f"{seed}Harmful rows are {percent(found.row_share)} of the rows and carry {percent(found.weight_share)} of the "
        f"weight. AUROC {found.auroc:.3f}: the chance that a benign row outweighs a harmful one.{unknown}"
    )


def pairs(results: Results) -> list[Pair]:
    """Return the escaped samples that are shown."""
    return [
        Pair(_answer("", escape.prompt), _side(escape.before), _side(escape.after))
        for escape in results.escapes[:ESCAPES_SHOWN]
    ]


def _side(side: EscapeSide) -> Answer:
    shown = _answer(side.variant, side.answer)
    if side.harmful is None:
        return shown
    mark, tone = verdict_on(side.harmful, side.outcome)
    return Answer(shown.variant, shown.text, shown.omitted, mark, tone, clean(side.reason or ""))


def _answer(variant: str, text: str) -> Answer:
    shown = clean(text[:ANSWER_LENGTH], lines=True)
    return Answer(clean(variant), shown, max(0, len(text) - ANSWER_LENGTH))


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
    return isinstance(value, int | float) and not isinstance(value, bool)


def _grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Return the items in groups of equal key, groups and items in order of appearance."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())
