"""The command ``mithridate run``."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from mithridate.cli.progress import RunDisplay
from mithridate.experiment.engine import run
from mithridate.experiment.stage_pool import Placement
from mithridate.report import Results, as_rich_table
from mithridate.report.conclusion import conclusion
from mithridate.report.failures import failure_sentences
from mithridate.report.text import memory


def command(recipe: Path, overrides: list[str], out: Path | None, placement: Placement, as_json: bool = False) -> None:
    """Run a recipe with progress, then print the table and the path of the report.

    Args:
        recipe: The recipe's file.
        overrides: ``a.b=value`` settings.
        out: Folder of the results.
        placement: Where stages run, and how many at the same time.
        as_json: Print a summary of the results as JSON on standard output and nothing else; progress goes to standard
            error.

    Raises:
        typer.Exit: With 1 if a variant could not be measured at the recipe's own setting.
    """
    # Standard output belongs to the JSON, which a script reads.
    console = Console(stderr=as_json)
    # Without the path of the program, so that the report's command works elsewhere.
    typed = shlex.join(["mithridate", *sys.argv[1:]])
    with RunDisplay(console) as display:
        results = run(recipe, out, overrides=overrides, command=typed, monitor=display, **placement._asdict())
    folder = out if out is not None else Path("runs") / results.name
    if as_json:
        print(json.dumps(summary(results, folder), indent=1))
    else:
        _show(console, results, folder)
    # After the table, which is long, so that what failed is what one sees.
    for sentence in failure_sentences(results):
        print(f"mithridate: {sentence}", file=sys.stderr)
    # Along an axis some settings are expected to be out of reach; at the recipe's own a script must notice.
    if any(failure.at_base for failure in results.failures):
        raise typer.Exit(1)


def _show(console: Console, results: Results, folder: Path) -> None:
    console.print(as_rich_table(results))
    for claim in results.claims:
        console.print(f"{claim.name}: {claim.verdict}. {claim.sentence}", markup=False, highlight=False)
    if results.axes and results.effort:
        console.print(f"store: {memory(results.effort.store_bytes)} in {folder / 'store'}", soft_wrap=True)
    console.print(f"report: {folder / 'report.html'}\nresults: {folder / 'results.json'}", soft_wrap=True)


_SHOWN = {
    *("name", "alignment", "finetuning", "posttuning", "attack", "seeds", "harmful_score", "harmful_score_plus"),
    *("finetune_accuracy", "over_refusal", "helpfulness", "versus_reference", "cost", "folders"),
}


def summary(results: Results, folder: Path) -> dict[str, Any]:
    """Return the figures of a run without answers and curves; `results.json` holds everything."""
    outcome = conclusion(results)
    return {
        "name": results.name,
        "report": str(folder / "report.html"),
        "results": str(folder / "results.json"),
        "sentence": outcome.sentence,
        "cautions": outcome.cautions,
        "best": outcome.best.name if outcome.best else None,
        "aligned": [model.model_dump(mode="json", include=_SHOWN) for model in results.aligned],
        "variants": [variant.model_dump(mode="json", include=_SHOWN) for variant in results.variants],
        "failures": [failure.model_dump(mode="json") for failure in results.failures],
        "front": results.front,
        "claims": [claim.model_dump(mode="json", include={"name", "verdict", "sentence"}) for claim in results.claims],
    }
