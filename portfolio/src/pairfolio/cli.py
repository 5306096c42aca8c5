"""The command `pairfolio`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pairfolio import __version__
from pairfolio.errors import PairfolioError

if TYPE_CHECKING:
    from pairfolio.sources import DataOptions

app = typer.Typer(
    help="Allocate between two opposed assets by a network trained on the Sharpe ratio, and test it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Files = Annotated[list[Path] | None, typer.Argument(help="Candles of A and B; none for the synthetic pair.")]
Spot = Annotated[Path | None, typer.Option(help="Candles of the underlying.")]
Market = Annotated[
    str | None, typer.Option("--pair", help="BTC, ETH or BNB under $MITHRIDATE_DATA/data/binance.")
]
Bars = Annotated[str | None, typer.Option("--interval", help="Join bars to this interval, such as 4h.")]
Start = Annotated[str | None, typer.Option(help="First day used, such as 2021-05-01.")]
End = Annotated[str | None, typer.Option(help="First day no longer used.")]
Adjust = Annotated[
    bool, typer.Option("--adjust-splits", help="Adjust suspected splits instead of refusing them.")
]
Stated = Annotated[
    list[str] | None, typer.Option("--split", help="A split as FILE@TIME=FACTOR; may be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OUT = Path("pairfolio-run")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pairfolio {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Allocate between two opposed assets by a network trained on the Sharpe ratio, and test it."""


@app.command()
def check(
    files: Files = None,
    spot: Spot = None,
    market: Market = None,
    interval: Bars = None,
    start: Start = None,
    end: End = None,
    adjust_splits: Adjust = False,
    split: Stated = None,
    as_json: Json = False,
) -> None:
    """Read candles and report what is odd in them; refuse what cannot be true."""
    from pairfolio.report.console import show_findings
    from pairfolio.sources import DataOptions, load

    options = DataOptions(
        tuple(files or ()), spot, market, interval, start, end, adjust_splits, tuple(split or ())
    )
    findings = load(options)[0].findings
    if as_json:
        typer.echo(findings.model_dump_json(indent=2))
    else:
        show_findings(findings, Console())


@app.command()
def backtest(
    files: Files = None,
    spot: Spot = None,
    market: Market = None,
    interval: Bars = None,
    start: Start = None,
    end: End = None,
    adjust_splits: Adjust = False,
    split: Stated = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings as JSON, such as an earlier config.json.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="lstm, gru, tcn or mlp.")] = None,
    term: Annotated[str | None, typer.Option(help="proximity, bias, variance or none.")] = None,
    strength: Annotated[float | None, typer.Option("--lambda", help="Strength of the term.")] = None,
    fee_bps: Annotated[float | None, typer.Option(help="Fee in basis points of each trade.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=100, help="Seeds 0, 1, … to train and average.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs of a network.")] = None,
    train_days: Annotated[float | None, typer.Option(help="Days to train on.")] = None,
    validation_days: Annotated[float | None, typer.Option(help="Days to choose the epoch on.")] = None,
    test_days: Annotated[float | None, typer.Option(help="Days to trade before training anew.")] = None,
    bars_per_year: Annotated[
        float | None, typer.Option(help="For markets that close; 252 for daily bars.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = OUT,
    as_json: Json = False,
) -> None:
    """Train walking forward, trade, compare with simple rules; write results.json and report.html."""
    from pairfolio.sources import DataOptions

    changes = {
        "network.kind": network,
        "loss.term": term,
        "loss.strength": strength,
        "loss.fee": None if fee_bps is None else fee_bps / 10_000,
        "seeds": None if seeds is None else tuple(range(seeds)),
        "training.epochs": epochs,
        "walk.train_days": train_days,
        "walk.validation_days": validation_days,
        "walk.test_days": test_days,
        "bars_per_year": bars_per_year,
    }
    options = DataOptions(
        tuple(files or ()), spot, market, interval, start, end, adjust_splits, tuple(split or ())
    )
    given: dict[str, object] = {name: value for name, value in changes.items() if value is not None}
    _backtest(options, config, given, out, as_json)


def _backtest(
    options: "DataOptions", config: Path | None, changes: dict[str, object], out: Path, as_json: bool
) -> None:
    import torch

    from pairfolio.backtest import run_backtest
    from pairfolio.config import Settings, load_settings, override
    from pairfolio.report.console import counter, show_run
    from pairfolio.report.files import write_run
    from pairfolio.sources import load

    settings = override(load_settings(config) if config else Settings(), changes)
    pair, regimes = load(options)
    # Sums over a varying number of threads would round differently from run to run.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with counter(Console(stderr=True)) as progress:
        run = run_backtest(pair, settings, regimes=regimes, progress=progress)
    paths = write_run(run, out)
    if as_json:
        typer.echo(run.results.model_dump_json(indent=2))
    else:
        show_run(run.results, paths, Console())


def main() -> None:
    """Run the command; refused input ends with status 2 and one sentence on standard error."""
    try:
        app()
    except PairfolioError as error:
        sys.stderr.write(f"pairfolio: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"pairfolio: {error.filename or ''} {os.strerror(error.errno or 0)}\n")
        sys.exit(1)
