"""The sections of the report that hold figures, as plain data for the template."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from mithridate.report.answers import ANSWER_SETS
from mithridate.report.figures import dose_plots, layer_plots, loss_plots, outcome_bars, score_plots, weight_histogram
from mithridate.report.result_parts import LayerNorms, LossCurve, VariantDoses, WeightedRows
from mithridate.report.results import Results, VariantResult
from mithridate.report.row_separation import separation
from mithridate.report.section import PageFigure, as_markup
from mithridate.report.text import clean, number, percent

Item = TypeVar("Item")


def score_figures(results: Results) -> list[PageFigure]:
    """Return the two figures over all variants; the first needs an accuracy."""
    bars = PageFigure(
        "Harmful score per variant",
        "Bars show the share of harmful answers with its 95% interval, dots the single seeds. "
        "The dashed line is the undefended model.",
        "Bars of harmful score per variant; the figures are in the main table.",
        as_markup(score_plots.score_bars(results)),
    )
    if not any(variant.finetune_accuracy for variant in results.variants):
        return [bars]
    tradeoff = PageFigure(
        "Harmful score against task accuracy",
        "Lower is safer, further right is more useful. Arms are 95% intervals. "
        "Squares: undefended. Triangles: without attack. Circles: defended.",
        "Points of harmful score against fine-tune accuracy; the figures are in the main table.",
        as_markup(score_plots.tradeoff(results)),
    )
    return [tradeoff, bars]


def outcome_figures(results: Results) -> list[PageFigure]:
    """Return one figure per set of prompts whose answers were classed."""
    found = []
    for name, (title, caption) in _OUTCOMES.items():
        if any(name in variant.outcomes for variant in results.variants):
            label = f"Bars of the outcomes of {ANSWER_SETS[name].lower()} per variant; the figures are in the table."
            found.append(PageFigure(title, caption, label, as_markup(outcome_bars.outcome_figure(results, name))))
    return found


_OUTCOMES = {
    "harmful": (
        "Answers to harmful prompts",
        "Only refusals are safety. A label, a fragment or broken text does no harm, but is of no use either.",
    ),
    "look_alikes": (
        "Answers to harmless look-alikes",
        "Over-refusal counts only refusals; an answer that does not refuse may still be useless.",
    ),
    "help": (
        "Answers to ordinary prompts",
        "What helpfulness counts is a part of the answers that comply: those that are right, where that is known.",
    ),
}


def loss_figures(results: Results) -> list[PageFigure]:
    """Return one figure per training stage, every training once, named after the variants that share it."""
    found = []
    for stage, title in (("alignment", "Alignment"), ("finetuning", "Fine-tuning")):
        groups = _trainings(results, stage)
        if groups:
            caption = (
                "Logged training loss, one line per training and seed. Each is the loss of its own method, so only the "
                "shape compares between methods."
            )
            drawing = as_markup(loss_plots.loss_figure(f"loss-{stage}", groups))
            found.append(PageFigure(title, caption, f"Training loss by step, {title.lower()}", drawing))
    return found


def _trainings(results: Results, stage: str) -> dict[str, list[LossCurve]]:
    """Curves of a stage by the names of the variants that share them."""
    names: dict[str, list[str]] = {}
    curves: dict[str, LossCurve] = {}
    for variant in results.variants:
        for curve in variant.loss_curves:
            if curve.stage == stage and curve.steps:
                # Results without keys do not say what is shared; then every variant has its own line.
                key = curve.key or f"{variant.name} {curve.seed}"
                curves.setdefault(key, curve)
                if variant.name not in names.setdefault(key, []):
                    names[key].append(variant.name)
    found: dict[str, list[LossCurve]] = {}
    for key, curve in curves.items():
        found.setdefault(", ".join(map(clean, names[key])), []).append(curve)
    return found


def dose_figures(results: Results) -> list[PageFigure]:
    """Return one figure per variant, method and parameter, with all seeds in it."""
    groups = _grouped(
        ((place, variant, curve) for place, variant in enumerate(results.variants) for curve in variant.dose_curves),
        # By the variant's place, as pydantic models have no hash.
        lambda item: (item[0], item[2].method, item[2].parameter),
    )
    # A search that tried nothing has no curve; matplotlib would draw empty axes.
    groups = [group for group in groups if any(curve.points for _, _, curve in group)]
    return [_dose_figure(f"dose{i}", group[0][1], [c for _, _, c in group]) for i, group in enumerate(groups)]


def _dose_figure(name: str, variant: VariantResult, curves: list[VariantDoses]) -> PageFigure:
    # Seeds may choose different doses, and some none: the caption tells both.
    chosen = [number(curve.chosen) for curve in curves if curve.chosen is not None]
    taken = f"Chosen: {', '.join(dict.fromkeys(chosen))} (ringed)." if chosen else "No dose was chosen."
    failed = f" No dose was chosen in {len(curves) - len(chosen)} of {len(curves)} seeds."
    title = _title(curves[0].method, variant)
    caption = taken + (failed if 0 < len(chosen) < len(curves) else "") + " One line per seed."
    if any(dose_plots.limited_by_safe_rows(curve) for curve in curves):
        caption += " Above: the user's rows (solid) and the provider's safe rows (dashed)."
    drawing = dose_plots.dose_figure(name, [curve for curve in curves if curve.points])
    return PageFigure(title, caption, f"Dose curve of {title}", as_markup(drawing))


def _title(method: str, variant: VariantResult) -> str:
    return clean(method) if method == variant.name else f"{clean(method)} in {clean(variant.name)}"


def layer_figures(results: Results) -> list[PageFigure]:
    """Return one figure per variant and method, with all seeds in it."""
    groups = _grouped(
        (
            (place, variant, profile)
            for place, variant in enumerate(results.variants)
            for profile in variant.layer_profiles
            if profile.layers and (profile.factor_norm or profile.delta_norm)
        ),
        # Seeds of different layers cannot share an axis.
        lambda item: (item[0], item[2].method, tuple(item[2].layers)),
    )
    return [_layer_figure(f"layer{i}", group[0][1], [p for _, _, p in group]) for i, group in enumerate(groups)]


def _layer_figure(name: str, variant: VariantResult, profiles: list[LayerNorms]) -> PageFigure:
    title = _title(profiles[0].method, variant)
    caption = "Norm of the perturbation per layer: bars are means over seeds, dots single seeds."
    return PageFigure(title, caption, f"Layer profile of {title}", as_markup(layer_plots.layer_figure(name, profiles)))


def weight_figures(results: Results) -> list[PageFigure]:
    """Return one figure per variant that weighted its rows."""
    weighted = [(v, v.row_weights) for v in results.variants if v.row_weights and v.row_weights.rows]
    return [
        PageFigure(
            clean(variant.name),
            _weight_caption(rows),
            f"Histogram of row weights in {clean(variant.name)}",
            as_markup(weight_histogram.weight_figure(f"weight{place}", rows)),
        )
        for place, (variant, rows) in enumerate(weighted)
    ]


def _weight_caption(rows: WeightedRows) -> str:
    seed = f"Seed {rows.seed}. " if rows.seed is not None else ""
    found = separation(rows)
    if found is None:
        return f"{seed}Both labels are needed to say how well the weights separate harmful rows."
    unknown = f" {found.unknown:,} rows have no known label." if found.unknown else ""
    return (
        f"{seed}Harmful rows are {percent(found.row_share)} of the rows and carry {percent(found.weight_share)} of the "
        f"weight. AUROC {found.auroc:.3f}: the chance that a benign row outweighs a harmful one.{unknown}"
    )


def _grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Return the items in groups of equal key, groups and items in order of appearance."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())
