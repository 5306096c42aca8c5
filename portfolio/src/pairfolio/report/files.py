"""Write a run's files; equal runs give equal bytes."""

from pathlib import Path

import pandas as pd

from pairfolio.backtest import Run
from pairfolio.report.page import render


def write_run(run: Run, folder: Path) -> list[Path]:
    """Write config.json, results.json, weights.csv, equity.csv and report.html.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "config.json": run.results.settings.model_dump_json(indent=2) + "\n",
        "results.json": run.results.model_dump_json(indent=2) + "\n",
        "weights.csv": _series(
            run, {key: ledger.weights for key, ledger in run.ledgers.items() if key != "spot"}
        ),
        "equity.csv": _series(run, {key: ledger.equity for key, ledger in run.ledgers.items()}),
        "report.html": render(run),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in texts]


def _series(run: Run, columns: dict[str, object]) -> str:
    """One row a tested bar: the weight is decided at its close, the wealth is that one bar later."""
    index = pd.Index(run.times.strftime("%Y-%m-%dT%H:%M:%SZ"), name="open_time")
    return str(pd.DataFrame(columns, index=index).to_csv(lineterminator="\n"))
