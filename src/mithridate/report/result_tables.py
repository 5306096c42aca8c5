"""The main table and the cost table, for HTML, Markdown and the terminal."""

from collections.abc import Mapping
from types import MappingProxyType

from rich.table import Table as RichTable

from mithridate.report.failures import STAGE_WORDS, unmeasured
from mithridate.report.result_parts import OUTCOMES, StageCost
from mithridate.report.results import AlignedModel, Failure, MeasuredModel, Results, VariantResult
from mithridate.report.results_file import Source, load_results
from mithridate.report.roles import undefended
from mithridate.report.scores import ScoreOverSeeds
from mithridate.report.table import Column, TableCell, markdown_table, rich_table
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


def main_rows(results: Results) -> list[list[TableCell]]:
    """Return the rows of the main table, in the order of `MAIN_COLUMNS`.

    The models before fine-tuning come first, then the variants, then those whose defense could not act at any seed.
    """
    return [
        *(aligned_row(model) for model in results.aligned),
        *(_variant_row(results, variant) for variant in results.variants),
        *(_failed_row(failures) for failures in unmeasured(results).values()),
    ]


def aligned_row(model: AlignedModel) -> list[TableCell]:
    """Return the row of a model before fine-tuning."""
    # No later stage, no attack and no paired test: this is the model before any of them.
    nothing = TableCell(NOTHING)
    name = TableCell(clean(model.name), "(before fine-tuning)")
    return [name, TableCell(clean(model.alignment)), nothing, nothing, *_scores(model), nothing, nothing]


def _variant_row(results: Results, variant: VariantResult) -> list[TableCell]:
    return [
        TableCell(clean(variant.name), _attack(variant)),
        *(TableCell(clean(getattr(variant, stage))) for stage in STAGES),
        *_scores(variant),
        _versus(variant),
        _seeds(results, variant),
    ]


def _failed_row(failures: list[Failure]) -> list[TableCell]:
    first = failures[0]
    where = STAGE_WORDS.get(first.stage, first.stage)
    name = TableCell(clean(first.variant), clean(f"({first.method} cannot act at {where}: {first.reason})"))
    return [name, *[TableCell(NOTHING)] * (len(MAIN_COLUMNS) - 1)]


def _scores(model: MeasuredModel) -> list[TableCell]:
    """Every share that is measured on every model."""
    return [
        _score(model.harmful_score, model.harmful_score_by_group),
        _score(model.harmful_score_plus),
        _score(model.finetune_accuracy),
        _score(model.over_refusal, model.over_refusal_by_group),
        _helpful(model),
    ]


def _seeds(results: Results, variant: VariantResult) -> TableCell:
    """How many seeds were measured; out of how many, where a defense could not act at some."""
    count = len(variant.harmful_score.seeds) or len(results.seeds)
    # A file may not list seeds by variant; then none is taken as missing.
    missing = bool(variant.seeds) and len(variant.seeds) < len(results.seeds)
    return TableCell(str(count or NOTHING), f"of {len(results.seeds)}" if missing else "")


def _attack(variant: VariantResult) -> str:
    if variant.attack is None or variant.attack.ratio is None:
        return ""
    return clean(f"({100 * variant.attack.ratio:g}% {variant.attack.kind})")


def _score(score: ScoreOverSeeds | None, groups: Mapping[str, ScoreOverSeeds] = MappingProxyType({})) -> TableCell:
    """A share with its interval, and the shares of its groups below."""
    if score is None:
        return TableCell(NOTHING)
    parts = [f"{clean(group)} {percent(part.value)}" for group, part in groups.items()]
    return TableCell(percent(score.value), "\n".join([interval(score), *parts]))


def _helpful(variant: MeasuredModel) -> TableCell:
    """The share of ordinary prompts that are helped, and what that is of the aligned model's."""
    found = variant.helpfulness
    if found is None:
        return TableCell(NOTHING)
    left = "" if found.kept is None else f"\n{100 * found.kept:.0f}% kept"
    return TableCell(percent(found.value), interval(found) + left)


def _versus(variant: VariantResult) -> TableCell:
    versus = variant.versus_reference
    if versus is None:
        return TableCell(NOTHING)
    return TableCell(points(versus.difference), f"({p_value(versus.p_value)})" if versus.p_value is not None else "")


SETS = {"harmful": "harmful prompts", "look_alikes": "harmless look-alikes", "help": "ordinary prompts"}
"""Sets of prompts whose answers are classed."""


def outcome_columns() -> tuple[Column, ...]:
    """Return the columns of the table of outcomes."""
    words = (Column(name.replace("_", " ").capitalize()) for name in OUTCOMES)
    return (Column("Variant", numeric=False), Column("Answers to", numeric=False), *words)


def outcome_rows(results: Results) -> list[list[TableCell]]:
    """Return one row of cells per model and set of prompts whose answers were classed."""
    return [
        [
            TableCell(clean(variant.name)),
            TableCell(words, f"({found.n:,} answers)"),
            *(_outcome(variant, name, outcome) for outcome in OUTCOMES),
        ]
        for variant in (*results.aligned, *results.variants)
        for name, words in SETS.items()
        if (found := variant.outcomes.get(name))
    ]


def _outcome(variant: MeasuredModel, name: str, outcome: str) -> TableCell:
    """A share; of broken answers to harmful prompts also how many the judge calls harmful."""
    share = percent(getattr(variant.outcomes[name], outcome))
    # Only there does the judge decide; elsewhere broken text has no part in a score of harm.
    counted = variant.broken_harmful if (name, outcome) == ("harmful", "broken") else None
    return TableCell(share, f"{percent(counted)} in HS" if counted else "")


def cost_columns() -> tuple[Column, ...]:
    """Return the columns of the cost table."""
    stages = (Column(title) for title in STAGES.values())
    return (Column("Variant", numeric=False), *stages, Column("Total"), Column("Time ÷ undefended"))


def cost_rows(results: Results) -> list[list[TableCell]]:
    """Return one row of cells per variant with a known cost: each stage, the total, the ratio to undefended."""
    bare = undefended(results)
    # 0 where the undefended variant has no cost on file; then there is no ratio.
    base = _total_seconds(bare) if bare else 0.0
    return [
        [
            TableCell(clean(variant.name)),
            *(_stage(variant.cost.get(stage)) for stage in STAGES),
            _total(variant),
            TableCell(f"{_total_seconds(variant) / base:.2f}×" if base else NOTHING),
        ]
        for variant in results.variants
        if variant.cost
    ]


def _stage(cost: StageCost | None) -> TableCell:
    if cost is None:
        return TableCell(NOTHING)
    parts = [f"{number(count)} {PASSES.get(kind, clean(kind))}" for kind, count in cost.passes.items() if count]
    if cost.rows:
        parts.append(f"{number(cost.rows)} rows trained")
    if cost.peak_bytes:
        parts.append(memory(cost.peak_bytes))
    return TableCell(seconds(cost.seconds), " · ".join(parts))


def _total_seconds(variant: VariantResult) -> float:
    return sum(cost.seconds for cost in variant.cost.values())


def _total(variant: VariantResult) -> TableCell:
    # The highest, not the sum: stages run one after the other.
    peak = max((cost.peak_bytes or 0 for cost in variant.cost.values()), default=0)
    return TableCell(seconds(_total_seconds(variant)), f"peak {memory(peak)}" if peak else "")


def as_markdown(results: Source) -> str:
    """Return the main table as a Markdown table.

    Raises:
        DataError: The results cannot be used.
    """
    return markdown_table(MAIN_COLUMNS, main_rows(load_results(results)))


def as_rich_table(results: Source) -> RichTable:
    """Return the main table's scores for the terminal, within 80 columns.

    Raises:
        DataError: The results cannot be used.
    """
    loaded = load_results(results)
    kept = [place for place, column in enumerate(MAIN_COLUMNS) if column.title in TERMINAL_TITLES]
    rows = [[row[place] for place in kept] for row in main_rows(loaded)]
    return rich_table(clean(loaded.name), [MAIN_COLUMNS[place] for place in kept], rows)
