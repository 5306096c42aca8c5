"""From results to one self-contained HTML page."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from mithridate.errors import MithridateError
from mithridate.files import write_whole
from mithridate.report.conclusion import conclusion
from mithridate.report.release_table import release_columns, release_rows
from mithridate.report.result_tables import (
    MAIN_COLUMNS,
    cost_columns,
    cost_rows,
    main_rows,
    outcome_columns,
    outcome_rows,
)
from mithridate.report.results import Results, VariantResult
from mithridate.report.results_file import Source, load_results
from mithridate.report.roles import clean_reference, undefended
from mithridate.report.text import clean, interval, memory, percent, points, seconds, shorten


def write_report(results: Source, path: Path) -> None:
    """Write the report as one HTML file without scripts or links to anything outside; equal results, equal bytes.

    Args:
        results: Results, the tree they are stored as, or the path of a `results.json`.
        path: The file to write, replaced only once the new one is complete.

    Raises:
        DataError: The results cannot be used.
        MithridateError: The file cannot be written.
    """
    write_page(path, page(load_results(results)))


def page(results: Results) -> str:
    """Return the report as HTML."""
    return environment().get_template("report.html.j2").render(_context(results))


@cache
def environment() -> Environment:
    """Return the templates of this package's pages, which are compiled once in a process.

    What they show is escaped, and a missing name is an error.
    """
    return Environment(
        loader=PackageLoader("mithridate.report"),
        # Not select_autoescape(), which goes by the ending and would leave out .html.j2.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _context(results: Results) -> dict[str, Any]:
    # Only here, so that reading results never loads the plotting library.
    from mithridate.report import figure_sections, sample_sections
    from mithridate.report.axis_sections import axis_context

    outcome = conclusion(results)
    return {
        "title": clean(results.name),
        "judge": clean(results.judge) if results.judge else None,
        "majority": percent(results.majority) if results.majority is not None else None,
        "all_answers": clean(results.answers) if results.answers else None,
        "verdict": outcome.sentence,
        "cautions": outcome.cautions,
        "tiles": _tiles(results, outcome.best),
        "main": (MAIN_COLUMNS, main_rows(results)),
        "outcomes": (outcome_columns(), outcome_rows(results)),
        "release": (release_columns(results), release_rows(results)),
        "outcome_figures": figure_sections.outcome_figures(results),
        "loss_figures": figure_sections.loss_figures(results),
        "best": clean(outcome.best.name) if outcome.best else None,
        "answers": _answers(results),
        "reference": _reference(results),
        "cost": (cost_columns(), cost_rows(results)),
        "score_figures": figure_sections.score_figures(results),
        "dose_figures": figure_sections.dose_figures(results),
        "weight_figures": figure_sections.weight_figures(results),
        "layer_figures": figure_sections.layer_figures(results),
        "pairs": sample_sections.pairs(results),
        "escapes": _escapes(results),
        "samples": sample_sections.samples(results),
        "miniature": is_miniature(results.recipe),
        "activity": sample_sections.activity(results),
        "provenance": _provenance(results),
        "recipe": to_yaml(results.recipe) if results.recipe else None,
        "front": ", ".join(map(clean, results.front)),
        "aligned": bool(results.aligned),
        **axis_context(results),
    }


_BESIDE = {"finetune_accuracy": "Task accuracy", "over_refusal": "Over-refusal", "helpfulness": "Helpfulness"}


def _tiles(results: Results, best: VariantResult | None) -> list[tuple[str, str, str]]:
    """Return the headline figures as (what, figure, qualification)."""
    bare, untouched = undefended(results), clean_reference(results)
    shown = [("without attack", untouched), ("undefended", bare), ("best defense", best)]
    tiles = [
        (f"Harmful score, {what}", percent(v.harmful_score.value), f"95% CI {interval(v.harmful_score)}")
        for what, v in shown
        if v
    ]
    if best and bare:
        for field, name in _BESIDE.items():
            mine, theirs = getattr(best, field), getattr(bare, field)
            if mine and theirs:
                change = f"{points(mine.value - theirs.value)} against undefended"
                tiles.append((f"{name}, best defense", percent(mine.value), change))
    return tiles


def _escapes(results: Results) -> str:
    """Return how many answers the shown ones stand for."""
    if results.stopped is None or results.stayed is None:
        return ""
    total = results.stopped + results.stayed
    return (
        f"Of {total:,} prompts that the undefended model answers harmfully at the first seed, {results.stopped:,} are "
        f"stopped and {results.stayed:,} are still answered harmfully; the first of both kinds."
    )


def _answers(results: Results) -> str:
    """Return how many answers stand behind a harmful score."""
    # Variants differ where a defense could not act at some seed.
    counts = sorted({variant.harmful_score.n for variant in results.variants})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _reference(results: Results) -> str | None:
    named = {v.versus_reference.reference for v in results.variants if v.versus_reference}
    return clean(", ".join(sorted(named))) or None


def is_miniature(recipe: Mapping[str, Any]) -> bool:
    """Return whether the recipe's model belongs to the embedded world, whose harmful answers are stand-ins."""
    # `model` is a name, or settings of which one holds the name.
    model = recipe.get("model")
    names = model.values() if isinstance(model, Mapping) else [model]
    return any(isinstance(name, str) and name.startswith("miniature:") for name in names)


def _provenance(results: Results) -> list[tuple[str, str]]:
    """Return (what, value) rows that let a reader make the same run again."""
    hashes, effort = results.hashes, results.effort
    taken = (
        [
            (
                "stages",
                f"{effort.stages:,}, {effort.made:,} of them made in the last call in {seconds(effort.seconds)}",
            ),
            ("size of the store", memory(effort.store_bytes)),
        ]
        if effort
        else []
    )
    rows = [
        *taken,
        ("command", results.command or ""),
        ("created", results.created or ""),
        ("seeds", ", ".join(str(seed) for seed in results.seeds)),
        ("recipe hash", hashes.recipe or ""),
        *((f"input hash: {name}", value) for name, value in hashes.inputs.items()),
        *((f"version: {name}", value) for name, value in results.versions.items()),
        *((f"files: {shorten(v.name, 40)}", ", ".join(v.folders)) for v in results.variants),
    ]
    return [(clean(what), clean(value)) for what, value in rows if value]


def to_yaml(tree: dict[str, Any]) -> str:
    """Return settings as YAML that is safe to show."""
    return clean(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100), lines=True)


def write_page(path: Path, content: str) -> None:
    """Write a page as a whole.

    Raises:
        MithridateError: The file cannot be written.
    """
    try:
        # A lone surrogate in a model's answer cannot be encoded; clean() has replaced those that reach the page.
        write_whole(path, content.encode("utf-8", errors="replace"))
    except OSError as error:
        raise MithridateError(
            f"{path}: the report cannot be written ({error.strerror}); free space or name another folder"
        ) from error
