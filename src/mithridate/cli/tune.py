"""The command ``mithridate tune``."""

import json
from pathlib import Path

import typer
from rich.console import Console

from mithridate.cli.progress import RunDisplay
from mithridate.data.row_faults import shown
from mithridate.provider.decision import DECISION, Decision
from mithridate.provider.decision_page import REPORT
from mithridate.provider.judged_files import MODEL
from mithridate.provider.tuning import tune


def command(
    model: str,
    data: str,
    policy: Path | None,
    out: Path,
    epochs: float | None,
    learning_rate: float | None,
    aligned: str | None,
    history: Path | None,
    method: str,
    beta: float | None,
    launch: int,
    as_json: bool,
) -> None:
    """Tune on an upload and print the decision.

    Raises:
        typer.Exit: With 3 if the upload is refused, with 4 if the release is.
    """
    console = Console(stderr=as_json)
    with RunDisplay(console) as display:
        made = tune(
            model, data, policy, out=out, epochs=epochs, learning_rate=learning_rate, aligned=aligned, history=history,
            method=method, beta=beta, launch=launch, monitor=display,
        )  # fmt: skip
    if as_json:
        print(json.dumps(made.model_dump(mode="json"), indent=1))
    else:
        _show(console, made, out)
    if made.exit_code:
        raise typer.Exit(made.exit_code)


def _show(console: Console, made: Decision, out: Path) -> None:
    lines = [made.outcome.replace("_", " "), *(f"  {reason}" for reason in made.reasons)]
    lines.append(f"decision: {out / DECISION}")
    lines.append(f"report: {out / REPORT}")
    if made.outcome == "released":
        lines.append(f"model: {out / MODEL}")
    for line in lines:
        console.print(shown(line), markup=False, highlight=False, soft_wrap=True)
