"""The table of harmful scores under attacks on the finished models."""

from mithridate.report.results import MeasuredModel, Results
from mithridate.report.table import Column, TableCell
from mithridate.report.text import NOTHING, clean, interval, percent


def release_columns(results: Results) -> tuple[Column, ...]:
    """Return the columns: the model, its score without an attack, and one for each attack."""
    return (Column("Variant", numeric=False), Column("As released"), *(Column(clean(one)) for one in _labels(results)))


def release_rows(results: Results) -> list[list[TableCell]]:
    """Return one row of cells per model that was attacked after release; none where no model was."""
    labels = _labels(results)
    return [
        [
            TableCell(clean(model.name)),
            TableCell(percent(model.harmful_score.value), interval(model.harmful_score)),
            *(_under(model, label) for label in labels),
        ]
        for model in (*results.aligned, *results.variants)
        if model.release
    ]


def _under(model: MeasuredModel, label: str) -> TableCell:
    found = model.release.get(label)
    if found is None:
        return TableCell(NOTHING)
    # Pruning and coarse rounding can break a model; text without sense that counts as harm must not pass for it.
    broken = f"\n{percent(found.broken_harmful)} broken text" if found.broken_harmful else ""
    return TableCell(percent(found.harmful_score.value), interval(found.harmful_score) + broken)


def _labels(results: Results) -> list[str]:
    models = (*results.aligned, *results.variants)
    return list(dict.fromkeys(label for model in models for label in model.release))
