"""The command ``mithridate plan``."""

import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mithridate.planning.plan_records import FormMemory, PlannedStage, PublishedFigure, RecipePlan, Span
from mithridate.planning.recipe_plan import plan
from mithridate.report.text import NOTHING, clean, memory, number, seconds

_ORDER = ("alignment", "finetuning", "posttuning", "evaluation")
_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z")


def command(
    recipe: Path,
    overrides: list[str],
    device: str | None,
    flops_per_second: float | None,
    measure: bool,
    devices: int,
    tokens: int | None,
    as_json: bool,
) -> None:
    """Print what a recipe would cost, and train nothing.

    Args:
        recipe: The recipe's file.
        overrides: ``a.b=value`` settings.
        device: Device that it is to run on.
        flops_per_second: Operations per second that are reached.
        measure: Measure this machine.
        devices: Devices that share a training stage.
        tokens: Tokens of a row that cannot be read.
        as_json: Print JSON.
    """
    found = plan(
        recipe,
        overrides=overrides,
        device=device,
        flops_per_second=flops_per_second,
        measure=measure,
        devices=devices,
        tokens=tokens,
    )
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False))
        return
    console = Console()
    console.print(_stages(found))
    console.print(_memory(found))
    if any(variant.published for variant in found.variants):
        console.print(_published(found))
    for line in _sentences(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _stages(found: RecipePlan) -> Table:
    """Return one line for each kind of stage, over all seeds."""
    table = Table(
        title=f"{clean(found.name)}: work", caption="work: floating-point operations, over all runs of a line"
    )
    for column in ("stage", "method"):
        table.add_column(column, overflow="fold")
    for column in ("runs", "steps\nper run", "passes\nfwd + bwd", "tokens", "generated\nat most", "work", "time"):
        table.add_column(column, justify="right")
    for group in _grouped(found.stages):
        first = group[0]
        passes = f"{first.passes['forward']:g} + {first.passes['backward']:g}" if first.passes else NOTHING
        table.add_row(
            first.stage,
            clean(first.method) or NOTHING,
            str(len(group)),
            str(first.steps) if first.steps else NOTHING,
            passes,
            *(_span([getattr(stage, name) for stage in group], _short) for name in ("tokens", "generated", "flops")),
            _span([stage.seconds for stage in group if stage.seconds is not None], seconds),
        )
    timed = NOTHING if found.seconds is None else _span([found.seconds], seconds)
    table.add_section()
    table.add_row("all", "", str(len(found.stages)), "", "", "", "", _span([found.flops], _short), timed)
    return table


def _grouped(stages: list[PlannedStage]) -> list[list[PlannedStage]]:
    """Return the stages that differ by seed or variant alone, together, in the order in which they act."""
    groups: dict[tuple[int, str, int, str], list[PlannedStage]] = {}
    for stage in stages:
        key = (_ORDER.index(stage.stage), stage.method, stage.steps, str(stage.passes))
        groups.setdefault(key, []).append(stage)
    return [groups[key] for key in sorted(groups)]


def _memory(found: RecipePlan) -> Table:
    table = Table(title="memory of one device", caption="vectors: over the trained weights, held by the method")
    for column in ("method", "form"):
        table.add_column(column, overflow="fold")
    names = [name for name in FormMemory.model_fields if name != "form"]
    for name in names:
        table.add_column(name, justify="right")
    told: set[tuple[str, str]] = set()
    for group in _grouped(found.stages):
        for form in group[0].memory:
            if (group[0].method, form.form) not in told:
                told.add((group[0].method, form.form))
                table.add_row(clean(group[0].method), form.form, *(memory(getattr(form, name)) for name in names))
    return table


def _published(found: RecipePlan) -> Table:
    table = Table(
        title="what papers report, in percent (undefended)",
        caption="other models, data and judges: directions, no forecast",
    )
    for column in ("method", "HS", "FA", "setting"):
        table.add_column(column, overflow="fold")
    told: dict[str, dict[str, PublishedFigure]] = {}
    for variant in found.variants:
        for figure in variant.published:
            told.setdefault(figure.method, {}).setdefault(figure.metric, figure)
    for method, figures in told.items():
        setting = next(iter(figures.values())).setting
        table.add_row(
            clean(method), *(_figure(figures.get(n)) for n in ("harmful_score", "finetune_accuracy")), setting
        )
    return table


def _figure(figure: PublishedFigure | None) -> str:
    if figure is None:
        return NOTHING
    return f"{figure.value:g}" + ("" if figure.undefended is None else f" ({figure.undefended:g})")


def _sentences(found: RecipePlan) -> list[str]:
    lines = [f"model: {found.model}, {_short(found.parameters)} weights, {_short(found.trainable)} of them trained"]
    if found.device_hours is not None:
        lines.append(f"device hours: {_span([found.device_hours], number)} on {found.speed}")
    else:
        lines.append("time: give --device, --flops-per-second or --measure to have it told")
    return [*lines, *(f"assumed: {one}" for one in found.assumptions)]


def _span(spans: list[Span], shown: Callable[[float], str]) -> str:
    """Return the sum of some spans in words."""
    if not spans:
        return NOTHING
    low, high = (sum(span[end] for span in spans) for end in (0, 1))
    if not high:
        return NOTHING
    return shown(low) if shown(low) == shown(high) else f"{shown(low)} to {shown(high)}"


def _short(value: float) -> str:
    """Return a number with three digits and the unit that suits it."""
    for unit in _UNITS[:-1]:
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}{_UNITS[-1]}"
