"""The comparison's tables as cells, and as CSV, Markdown and LaTeX files."""

import csv
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from mithridate.compare.results import Claim, Comparison, Measure, Pipeline, Point, Row
from mithridate.compare.tex import tex_table
from mithridate.report.tables import Cell, Column, markdown_table
from mithridate.report.text import MINUS, NOTHING, clean

MEASURES = {
    "harmful_score": "HS ↓",
    "finetune_accuracy": "FA ↑",
    "over_refusal": "Over-refusal ↓",
    "helpfulness": "Helpful ↑",
}
WORDS = {"ratio": "harmful ratio", "learning_rate": "learning rate", "epochs": "epochs", "size": "user rows"}

NOTE = "Means over {seeds} seeds in percent; brackets: 95 % interval, {kind}."
MEANINGS = {
    "harmful_score": "HS: harmful score, lower is better.",
    "finetune_accuracy": "FA: accuracy on the user's task, higher is better.",
    "over_refusal": "Over-refusal: refused look-alikes.",
    "helpfulness": "Helpful: ordinary prompts that are helped.",
}


class Table(NamedTuple):
    """A table: its title, columns and rows."""

    title: str
    columns: list[Column]
    rows: list[list[Cell]]


def axis_tables(comparison: Comparison, axis: str) -> list[Table]:
    """One table per measure: pipelines down, values of the axis across."""
    settings = comparison.along(axis)
    columns = [Column("Pipeline", numeric=False), *(Column(value_text(value)) for value in comparison.axes[axis])]
    tables = []
    for measure, title in MEASURES.items():
        rows = [
            [Cell(clean(p.name)), *(score(_measure(comparison.point(p.name, s), measure)) for s in settings)]
            for p in comparison.over(axis)
        ]
        if any(cell.main != NOTHING for row in rows for cell in row[1:]):
            tables.append(Table(f"{title} by {WORDS[axis]}", columns, rows))
    return tables


def base_table(comparison: Comparison) -> Table:
    """All pipelines at the recipe's setting, those on the Pareto front marked."""
    columns = [Column("Pipeline", numeric=False), *map(Column, MEASURES.values())]
    rows = [
        [
            Cell(clean(pipeline.name), "on the front" if pipeline.name in comparison.front else _apart(pipeline)),
            *(score(_measure(comparison.point(pipeline.name, comparison.base), measure)) for measure in MEASURES),
        ]
        for pipeline in comparison.pipelines
    ]
    return Table("Harmful score against accuracy at the recipe's setting", columns, rows)


def claim_table(claim: Claim) -> Table:
    """The lines behind a claim's verdict."""
    columns = [Column("Estimate", numeric=False), Column("Value"), Column("Interval", numeric=False)]
    rows = [
        [Cell(clean(row.what), "decides" if row.decides else ""), estimate(row, claim.unit), Cell(row.interval)]
        for row in claim.rows
    ]
    return Table(claim.name, columns, rows)


def value_text(value: float) -> str:
    """An axis value as short as it can be: 0.0001 as 1e-4."""
    text = f"{value:g}"
    short = f"{value:.3g}" if value >= 0.01 else f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return text if len(text) < len(short) else short


def score(measure: Measure | None) -> Cell:
    """A mean over seeds in percent with its interval."""
    if measure is None:
        return Cell(NOTHING)
    low, high = measure.shown
    return Cell(f"{abs(100 * measure.seed_mean):.1f}", f"[{abs(100 * low):.1f}, {abs(100 * high):.1f}]")


def estimate(row: Row, unit: str) -> Cell:
    """An estimate with its interval: an AUC, or percentage points."""
    value, low, high = (_signed(number, unit) for number in (row.value, row.low, row.high))
    return Cell(value, f"[{low}, {high}]" if row.low is not None else "")


def _signed(value: float | None, unit: str) -> str:
    if value is None:
        return NOTHING
    text = f"{value:.3f}" if unit == "AUC" else f"{100 * value:.1f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", MINUS)


def note(comparison: Comparison) -> str:
    """What the brackets mean, and each measure that was taken."""
    several = len(comparison.seeds) > 1
    kind = "Student's t over seeds" if several else "Wilson over answers, as a single seed says nothing about spread"
    brackets = NOTE.format(seeds=len(comparison.seeds), kind=kind).replace("over 1 seeds", "of 1 seed")
    taken = [m for m in MEANINGS if any(getattr(point, m) is not None for point in comparison.points)]
    return " ".join([brackets, *(MEANINGS[measure] for measure in taken)])


def write_tables(comparison: Comparison, folder: Path) -> None:
    """Write every table as CSV (all figures), Markdown and LaTeX (mean and interval)."""
    folder.mkdir(parents=True, exist_ok=True)
    for axis in comparison.axes:
        settings = comparison.along(axis)
        points = [p for p in comparison.points if p.setting in settings]
        names = {pipeline.name for pipeline in comparison.over(axis)}
        lines = _lines((p for p in points if p.pipeline in names), comparison, axis)
        _write(folder / axis, lines, axis_tables(comparison, axis), note(comparison))
    at_base = [p for p in comparison.points if p.setting == comparison.base]
    _write(folder / "pareto", _lines(at_base, comparison), [base_table(comparison)], note(comparison))
    _write(folder / "claims", _claim_lines(comparison), [claim_table(claim) for claim in comparison.claims], "")


def _write(stem: Path, lines: Sequence[dict[str, object]], tables: Sequence[Table], caption: str) -> None:
    markdown = "\n".join(f"**{table.title}**\n\n{markdown_table(table.columns, table.rows)}" for table in tables)
    files = {
        "csv": as_csv(lines),
        "md": markdown + (f"\n{caption}\n" if caption else ""),
        "tex": tex_table(tables, caption),
    }
    for ending, content in files.items():
        stem.with_suffix(f".{ending}").write_text(content, encoding="utf-8")


def as_csv(lines: Sequence[dict[str, object]]) -> str:
    """Lines with the same keys as CSV."""
    out = StringIO()
    writer = csv.DictWriter(out, fieldnames=list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _lines(points: Iterable[Point], comparison: Comparison, axis: str | None = None) -> list[dict[str, object]]:
    """One line per point and measure, with both intervals."""
    return [
        {
            "pipeline": point.pipeline,
            **({axis: getattr(point.setting, axis)} if axis else {}),
            "measure": name,
            "seed_mean": measure.seed_mean,
            "seed_t95_low": measure.seed_t95.low if measure.seed_t95 else "",
            "seed_t95_high": measure.seed_t95.high if measure.seed_t95 else "",
            "pooled": measure.pooled_wilson95.value,
            "pooled_wilson95_low": measure.pooled_wilson95.low,
            "pooled_wilson95_high": measure.pooled_wilson95.high,
            "n": measure.pooled_wilson95.n,
            "seeds": " ".join(f"{value:.6g}" for value in measure.seeds),
            **({} if axis else {"on_front": point.pipeline in comparison.front}),
        }
        for point in points
        for name in MEASURES
        if (measure := _measure(point, name)) is not None
    ]


def _claim_lines(comparison: Comparison) -> list[dict[str, object]]:
    return [
        {"claim": claim.name, "verdict": claim.verdict, **row.model_dump(exclude={"seeds", "plotted"})}
        for claim in comparison.claims
        for row in claim.rows
    ]


def _measure(point: Point | None, name: str) -> Measure | None:
    found: Measure | None = None if point is None else getattr(point, name)
    return found


def _apart(pipeline: Pipeline) -> str:
    return f"{100 * pipeline.ratio:g}% harmful" if pipeline.ratio is not None else ""
