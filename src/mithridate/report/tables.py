"""The main table and the cost table, for HTML, Markdown and the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rich.table import Table
from rich.text import Text

from mithridate.report.reading import Source, load_results
from mithridate.report.results import OUTCOMES, Results, ScoreOverSeeds, StageCost, VariantResult
from mithridate.report.roles import undefended
from mithridate.report.text import (
    NOTHING,
    clean,
    interval,
    memory,
    number,
    p_value,
    percent,
    points,
    seconds,
)

STAGES = {"alignment": "Alignment", "finetuning": "Fine-tuning", "posttuning": "Post-tuning"}
PASSES = {"forward": "fwd", "backward": "bwd"}
# What fits into 80 columns of a terminal.
TERMINAL_TITLES = frozenset({"Variant", "HS ↓", "FA ↑", "Over-refusal ↓", "Helpful ↑"})


@dataclass(frozen=True)
class Cell:
    """A table cell: the figure, and in smaller type what qualifies it, in lines."""

    main: str
    note: str = ""

    def line(self) -> str:
        """Return both on one line."""
        return f"{self.main} {self.note}".strip().replace("\n", ", ")


@dataclass(frozen=True)
class Column:
    """A column's heading, and whether it holds figures."""

    title: str
    numeric: bool = True


MAIN_COLUMNS = (
    Column("Variant", numeric=False),
    *(Column(title, numeric=False) for title in STAGES.values()),
    Column("HS ↓"),
    Column("HS+ ↓"),
    Column("FA ↑"),
    Column("Over-refusal ↓"),
    Column("Helpful ↑"),
    Column("HS − reference"),
    Column("Seeds"),
)


def main_rows(results: Results) -> list[list[Cell]]:
    """Return one row of cells per variant, in the order of `MAIN_COLUMNS`."""
    return [
        [
            Cell(clean(variant.name), _attack(variant)),
            *(Cell(clean(getattr(variant, stage))) for stage in STAGES),
            _score(variant.harmful_score),
            _score(variant.harmful_score_plus),
            _score(variant.finetune_accuracy),
            _score(variant.over_refusal),
            _helpful(variant),
            _versus(variant),
            Cell(str(len(variant.harmful_score.seeds) or len(results.seeds) or NOTHING)),
        ]
        for variant in results.variants
    ]


def _attack(variant: VariantResult) -> str:
    if variant.attack is None or variant.attack.ratio is None:
        return ""
    return f"({100 * variant.attack.ratio:g}% harmful)"


def _score(score: ScoreOverSeeds | None) -> Cell:
    return Cell(NOTHING) if score is None else Cell(percent(score.value), interval(score))


def _helpful(variant: VariantResult) -> Cell:
    """The share of ordinary prompts that are helped, and what that is of the aligned model's."""
    found = variant.helpfulness
    if found is None:
        return Cell(NOTHING)
    left = "" if found.kept is None else f"\n{100 * found.kept:.0f}% kept"
    return Cell(percent(found.value), interval(found) + left)


def _versus(variant: VariantResult) -> Cell:
    versus = variant.versus_reference
    if versus is None:
        return Cell(NOTHING)
    return Cell(points(versus.difference), f"({p_value(versus.p_value)})" if versus.p_value is not None else "")


SETS = {"harmful": "harmful prompts", "look_alikes": "harmless look-alikes", "help": "ordinary prompts"}
"""Sets of prompts whose answers are classed."""


def outcome_columns() -> tuple[Column, ...]:
    """Return the columns of the table of outcomes."""
    words = (Column(name.replace("_", " ").capitalize()) for name in OUTCOMES)
    return (Column("Variant", numeric=False), Column("Answers to", numeric=False), *words)


def outcome_rows(results: Results) -> list[list[Cell]]:
    """Return one row of cells per variant and set of prompts whose answers were classed."""
    return [
        [
            Cell(clean(variant.name)),
            Cell(words, f"({found.n:,} answers)"),
            *(_outcome(variant, name, outcome) for outcome in OUTCOMES),
        ]
        for variant in results.variants
        for name, words in SETS.items()
        if (found := variant.outcomes.get(name))
    ]


def _outcome(variant: VariantResult, name: str, outcome: str) -> Cell:
    """A share; of broken answers to harmful prompts also how many the judge calls harmful."""
    share = percent(getattr(variant.outcomes[name], outcome))
    counted = variant.broken_harmful if (name, outcome) == ("harmful", "broken") else None
    return Cell(share, f"{percent(counted)} in HS" if counted else "")


def cost_columns() -> tuple[Column, ...]:
    """Return the columns of the cost table."""
    stages = (Column(title) for title in STAGES.values())
    return (Column("Variant", numeric=False), *stages, Column("Total"), Column("Time ÷ undefended"))


def cost_rows(results: Results) -> list[list[Cell]]:
    """Return one row of cells per variant with a known cost: each stage, the total, the ratio to undefended."""
    bare = undefended(results)
    base = _total_seconds(bare) if bare else 0.0
    return [
        [
            Cell(clean(variant.name)),
            *(_stage(variant.cost.get(stage)) for stage in STAGES),
            _total(variant),
            Cell(f"{_total_seconds(variant) / base:.2f}×" if base else NOTHING),
        ]
        for variant in results.variants
        if variant.cost
    ]


def _stage(cost: StageCost | None) -> Cell:
    if cost is None:
        return Cell(NOTHING)
    parts = [f"{number(count)} {PASSES.get(kind, clean(kind))}" for kind, count in cost.passes.items() if count]
    if cost.peak_bytes:
        parts.append(memory(cost.peak_bytes))
    return Cell(seconds(cost.seconds), " · ".join(parts))


def _total_seconds(variant: VariantResult) -> float:
    return sum(cost.seconds for cost in variant.cost.values())


def _total(variant: VariantResult) -> Cell:
    peak = max((cost.peak_bytes or 0 for cost in variant.cost.values()), default=0)
    return Cell(seconds(_total_seconds(variant)), f"peak {memory(peak)}" if peak else "")


def as_markdown(results: Source) -> str:
    """Return the main table as a Markdown table.

    Raises:
        DataError: The results cannot be used.
    """
    return markdown_table(MAIN_COLUMNS, main_rows(load_results(results)))


def markdown_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """Return any table as a Markdown table."""
    lines = ["| " + " | ".join(column.title for column in columns) + " |"]
    lines.append("|" + "|".join("---:" if column.numeric else "---" for column in columns) + "|")
    lines += ["| " + " | ".join(_markdown(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _markdown(cell: Cell) -> str:
    safe = escape(cell.line(), quote=False).replace("\\", "\\\\").replace("|", "\\|")
    return safe.replace("`", "\\`").replace("_", "\\_").replace("*", "\\*")


def as_rich_table(results: Source) -> Table:
    """Return the main table's scores for the terminal, within 80 columns.

    Raises:
        DataError: The results cannot be used.
    """
    loaded = load_results(results)
    table = Table(title=Text(clean(loaded.name)), header_style="bold", title_justify="left")
    kept = [place for place, column in enumerate(MAIN_COLUMNS) if column.title in TERMINAL_TITLES]
    for column in (MAIN_COLUMNS[place] for place in kept):
        table.add_column(column.title, justify="right" if column.numeric else "left", no_wrap=column.numeric)
    for row in main_rows(loaded):
        table.add_row(*(_rich(row[place]) for place in kept))
    return table


def _rich(cell: Cell) -> Text:
    text = Text(cell.main)
    if cell.note:
        text.append(f"\n{cell.note}", style="dim")
    return text
