"""The command ``mithridate plan``."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from mithridate.planning.plan_records import FormMemory, PlannedStage, PublishedFigure, RecipePlan, Span
from mithridate.planning.recipe_plan import plan
from mithridate.report.text import NOTHING, clean, memory, number, seconds

_ORDER = ("alignment", "finetuning", "posttuning", "evaluation")
_HEADINGS = {
    "gradients": "grads",
    "optimizer": "AdamW",
    "precise": "float32",
    "activations": "activ.",
    "gathered": "blocks",
}
_HEADINGS_SAY = (
    "vectors: over the trained weights, held by the method; activ.: activations; blocks: held whole under FSDP"
)
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
    table = _table(
        f"{clean(found.name)}: work",
        "steps of one run; passes forward + backward; of all runs: tokens, new ones at most, floating-point operations",
        ("", "runs", "steps", "passes", "tokens", "new", "work", "time"),
    )
    stages = {one.stage: None for group in _grouped(found.stages) for one in group}
    for stage in stages:
        table.add_row(f"[bold]{stage}[/bold]")
        for group in _grouped([one for one in found.stages if one.stage == stage]):
            table.add_row(*_stage(group))
    timed = NOTHING if found.seconds is None else _cell([found.seconds], seconds)
    table.add_section()
    table.add_row("[bold]all[/bold]", str(len(found.stages)), "", "", "", "", _cell([found.flops], _short), timed)
    return table


def _stage(group: list[PlannedStage]) -> list[str]:
    first = group[0]
    return [
        f"  {clean(first.method) or 'prompts'}",
        str(len(group)),
        str(first.steps) if first.steps else NOTHING,
        f"{first.passes['forward']:g} + {first.passes['backward']:g}" if first.passes else NOTHING,
        *(_cell([getattr(stage, name) for stage in group], _short) for name in ("tokens", "generated", "flops")),
        _cell([stage.seconds for stage in group if stage.seconds is not None], seconds),
    ]


def _table(title: str, caption: str, columns: Sequence[str]) -> Table:
    """Return an empty table whose first column holds names, the others figures; narrow enough for a terminal."""
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=not place, overflow="fold")
    return table


def _grouped(stages: list[PlannedStage]) -> list[list[PlannedStage]]:
    """Return the stages that differ by seed or variant alone, together, in the order in which they act."""
    groups: dict[tuple[int, str, int, str], list[PlannedStage]] = {}
    for stage in stages:
        key = (_ORDER.index(stage.stage), stage.method, stage.steps, str(stage.passes))
        groups.setdefault(key, []).append(stage)
    return [groups[key] for key in sorted(groups)]


def _memory(found: RecipePlan) -> Table:
    rows: dict[tuple[str, str], FormMemory] = {}
    for stage in found.stages:
        for form in stage.memory:
            rows.setdefault((stage.method, form.form), form)
    # What no stage holds, such as FSDP's blocks on one device, takes no column.
    fields = [name for name in FormMemory.model_fields if name != "form"]
    names = [name for name in fields if any(getattr(form, name) for form in rows.values())]
    table = _table("memory of one device", _HEADINGS_SAY, ("", *(_HEADINGS.get(name, name) for name in names)))
    for title in dict.fromkeys(title for _, title in rows):
        table.add_row(f"[bold]{title}[/bold]")
        for method in dict.fromkeys(method for method, its in rows if its == title):
            shown = (memory(getattr(rows[method, title], name)) for name in names)
            table.add_row(f"  {clean(method)}", *shown)
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


def _cell(spans: list[Span], shown: Callable[[float], str]) -> str:
    """Return the sum of some spans for a narrow column: a span on two lines."""
    told = _span(spans, shown)
    return told if told == NOTHING else told.replace("–", "–\n")


def _span(spans: list[Span], shown: Callable[[float], str]) -> str:
    """Return the sum of some spans in words."""
    if not spans:
        return NOTHING
    low, high = (sum(span[end] for span in spans) for end in (0, 1))
    if not high:
        return NOTHING
    return shown(low) if shown(low) == shown(high) else f"{shown(low)}–{shown(high)}"


def _short(value: float) -> str:
    """Return a number with two digits or three, and the unit that suits it."""
    for unit in _UNITS[:-1]:
        if value < 1000:
            return f"{value:.2g}{unit}" if value < 10 else f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.0f}{_UNITS[-1]}"
