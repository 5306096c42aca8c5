"""The tables of a run with axes as cells, and as CSV, Markdown and LaTeX files."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mithridate.files import write_whole
from mithridate.report.axis_results import AxisPoint, Claim, Estimate
from mithridate.report.failures import unmeasured
from mithridate.report.latex import tex_table
from mithridate.report.results import MeasuredModel, Results, VariantResult
from mithridate.report.scores import ScoreOverSeeds
from mithridate.report.table import Column, ResultTable, TableCell, as_csv, markdown_table
from mithridate.report.text import MINUS, NOTHING, clean

MEASURES = {
    "harmful_score": "HS ↓",
    "finetune_accuracy": "FA ↑",
    "over_refusal": "Over-refusal ↓",
    "helpfulness": "Helpful ↑",
}
WORDS = {
    "ratio": "harmful ratio",
    "learning_rate": "learning rate",
    "epochs": "epochs",
    "size": "user rows",
    "alignment_learning_rate": "alignment learning rate",
    "alignment_epochs": "alignment epochs",
    "attack": "attack",
}

NOTE = "Means over {seeds} seeds in percent; brackets: 95 % interval, {kind}."
MEANINGS = {
    "harmful_score": "HS: harmful score, lower is better.",
    "finetune_accuracy": "FA: accuracy on the user's task, higher is better.",
    "over_refusal": "Over-refusal: refused look-alikes.",
    "helpfulness": "Helpful: ordinary prompts that are helped.",
}


def axis_tables(results: Results, axis: str) -> list[ResultTable]:
    """Return one table per measure: variants down, values of the axis across."""
    values = results.axes[axis]
    columns = [Column("Variant", numeric=False), *(Column(value_text(value)) for value in values)]
    tables = []
    for measure, title in MEASURES.items():
        rows = [[TableCell(clean(name)), *_along(results, name, axis, measure)] for name in results.tried(axis)]
        # A measure that the run did not take would be a table of dashes.
        if any(cell.main not in (NOTHING, "cannot act") for row in rows for cell in row[1:]):
            if not axis.startswith("alignment"):  # an axis of fine-tuning does not touch the model before it
                rows = [*_aligned(results, measure, len(values)), *rows]
            tables.append(ResultTable(f"{title} by {WORDS[axis]}", columns, rows))
    return tables


def _along(results: Results, name: str, axis: str, measure: str) -> list[TableCell]:
    """The cells of one variant; where its defense cannot act at any seed, the cell says so."""
    # Only variants that were tried at every value come here, so a missing point is a failure.
    points = [results.point(name, setting) for setting in results.along(axis)]
    return [
        TableCell("cannot act") if point is None else score(_measure(point, measure), len(results.seeds))
        for point in points
    ]


def _aligned(results: Results, measure: str, times: int) -> list[list[TableCell]]:
    """The models before fine-tuning, the same at every value."""
    return [
        [TableCell(clean(model.name), "before fine-tuning"), *[score(_measure(model, measure))] * times]
        for model in results.aligned
    ]


def base_table(results: Results) -> ResultTable:
    """Return all models at the recipe's setting, those on the Pareto front marked."""
    columns = [Column("Variant", numeric=False), *map(Column, MEASURES.values())]
    rows = [
        [
            TableCell(clean(model.name), _note(results, model)),
            *(score(_measure(model, measure)) for measure in MEASURES),
        ]
        for model in (*results.aligned, *results.variants)
    ]
    rows += [[TableCell(clean(name)), *[TableCell("cannot act")] * len(MEASURES)] for name in unmeasured(results)]
    return ResultTable("Harmful score against accuracy at the recipe's setting", columns, rows)


def _note(results: Results, model: MeasuredModel) -> str:
    """Return what sets a model apart from the others in the table."""
    if not isinstance(model, VariantResult):
        return "before fine-tuning"
    if model.name in results.front:
        return "on the front"
    apart = model.attack is not None and results.base is not None and model.attack.ratio != results.base.ratio
    if model.attack is None or not apart:
        return ""
    return clean(f"{100 * (model.attack.ratio or 0):g}% {model.attack.kind}")


def claim_table(claim: Claim) -> ResultTable:
    """Return the lines behind a claim's verdict."""
    columns = [Column("Estimate", numeric=False), Column("Value"), Column("Interval", numeric=False)]
    rows = [
        [
            TableCell(clean(row.what), "decides" if row.decides else ""),
            estimate(row, claim.unit),
            TableCell(row.interval),
        ]
        for row in claim.rows
    ]
    return ResultTable(claim.name, columns, rows)


def value_text(value: float | str) -> str:
    """Return an axis value in its shortest form: 0.0001 as 1e-4."""
    if isinstance(value, str):
        return clean(value)
    # Numbers of rows and epochs stay whole: 10000, not 1e+04.
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.0f}"
    text = f"{value:g}"
    short = f"{value:.3g}" if value >= 0.01 else f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return text if len(text) < len(short) else short


def score(measure: ScoreOverSeeds | None, seeds: int = 0) -> TableCell:
    """Return a mean over seeds in percent with its interval.

    Args:
        measure: What was measured.
        seeds: Seeds of the run; where fewer were measured, the cell says so.
    """
    if measure is None:
        return TableCell(NOTHING)
    low, high = measure.spread
    fewer = f" {len(measure.seeds)} of {seeds} seeds" if len(measure.seeds) < seeds else ""
    # abs: a bound may be -1e-17 by rounding, which would print as -0.0.
    return TableCell(f"{abs(100 * measure.mean):.1f}", f"[{abs(100 * low):.1f}, {abs(100 * high):.1f}]{fewer}")


def estimate(row: Estimate, unit: str) -> TableCell:
    """Return an estimate with its interval: an AUC, or percentage points."""
    value, low, high = (_signed(number, unit) for number in (row.value, row.low, row.high))
    return TableCell(value, f"[{low}, {high}]" if row.low is not None else "")


def _signed(value: float | None, unit: str) -> str:
    if value is None:
        return NOTHING
    text = f"{value:.3f}" if unit == "AUC" else f"{100 * value:.1f}"
    # A small negative number rounds to -0.0; zero has no sign.
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", MINUS)


def note(results: Results) -> str:
    """Return what the brackets mean, and each measure that was taken."""
    # With one seed, `ScoreOverSeeds.spread` falls back to the pooled interval, which has another meaning.
    several = len(results.seeds) > 1
    kind = "Student's t over seeds" if several else "Wilson over answers, as a single seed says nothing about spread"
    brackets = NOTE.format(seeds=len(results.seeds), kind=kind).replace("over 1 seeds", "of 1 seed")
    taken = [m for m in MEANINGS if any(getattr(point, m) is not None for point in results.points)]
    return " ".join([brackets, *(MEANINGS[measure] for measure in taken)])


def write_tables(results: Results, folder: Path) -> None:
    """Write every table as CSV (all figures), Markdown and LaTeX (mean and interval)."""
    for axis in results.axes:
        settings = results.along(axis)
        names = results.tried(axis)
        points = [p for p in results.points if p.setting in settings and p.variant in names]
        _write(folder / axis, _lines(points, results, axis), axis_tables(results, axis), note(results))
    # Aligned models too, so that the table shows what fine-tuning started from.
    at_base = (*results.aligned, *results.variants)
    _write(folder / "pareto", _lines(at_base, results), [base_table(results)], note(results))
    _write(folder / "claims", _claim_lines(results), [claim_table(claim) for claim in results.claims], "")


def _write(stem: Path, lines: Sequence[dict[str, object]], tables: Sequence[ResultTable], caption: str) -> None:
    markdown = "\n".join(f"**{table.title}**\n\n{markdown_table(table.columns, table.rows)}" for table in tables)
    files = {
        "csv": as_csv(lines),
        "md": markdown + (f"\n{caption}\n" if caption else ""),
        "tex": tex_table(tables, caption),
    }
    for ending, content in files.items():
        write_whole(stem.with_suffix(f".{ending}"), content.encode())


def _lines(
    points: Iterable[AxisPoint | MeasuredModel], results: Results, axis: str | None = None
) -> list[dict[str, object]]:
    """One line per point and measure, with both intervals."""
    return [
        {
            "variant": _name(point),
            **({axis: getattr(point.setting, axis)} if axis and isinstance(point, AxisPoint) else {}),
            "measure": name,
            "seed_mean": measure.mean,
            # Empty, not None: spreadsheets read an empty cell as a missing number.
            "seed_t95_low": "" if measure.seed_low is None else measure.seed_low,
            "seed_t95_high": "" if measure.seed_high is None else measure.seed_high,
            "pooled": measure.value,
            "pooled_wilson95_low": measure.low,
            "pooled_wilson95_high": measure.high,
            "n": measure.n,
            "seeds": " ".join(f"{value:.6g}" for value in measure.seeds),
            **({} if axis else {"on_front": _name(point) in results.front}),
        }
        for point in points
        for name in MEASURES
        if (measure := _measure(point, name)) is not None
    ]


def _name(measured: AxisPoint | MeasuredModel) -> str:
    return measured.variant if isinstance(measured, AxisPoint) else measured.name


def _claim_lines(results: Results) -> list[dict[str, object]]:
    return [
        {"claim": claim.name, "verdict": claim.verdict, **row.model_dump(exclude={"seeds", "plotted"})}
        for claim in results.claims
        for row in claim.rows
    ]


def _measure(measured: AxisPoint | MeasuredModel, name: str) -> ScoreOverSeeds | None:
    found: ScoreOverSeeds | None = getattr(measured, name)
    return found
