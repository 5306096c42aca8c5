"""The command `pairfolio`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pairfolio import __version__
from pairfolio.cli_models import apply, compare, train
from pairfolio.errors import PairfolioError, SettingsError
from pairfolio.options import (
    Adjust,
    Bars,
    Config,
    End,
    Epochs,
    Fee,
    Files,
    FinalStart,
    Json,
    Lambda,
    Market,
    Network,
    Seeds,
    Spot,
    Start,
    Stated,
    TermName,
    TrainDays,
    ValidationDays,
    Year,
    same_every_time,
    settings_of,
)

if TYPE_CHECKING:
    from pairfolio.config import Settings
    from pairfolio.sources import DataOptions

app = typer.Typer(
    help="Allocate between two opposed assets by a network trained on the Sharpe ratio, and test it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
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
    config: Config = None,
    network: Network = None,
    term: TermName = None,
    strength: Lambda = None,
    fee_bps: Fee = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    train_days: TrainDays = None,
    validation_days: ValidationDays = None,
    test_days: Annotated[float | None, typer.Option(help="Days to trade before training anew.")] = None,
    bars_per_year: Year = None,
    choose: Annotated[
        bool, typer.Option("--choose", help="Choose network and λ from a grid, on the earlier span.")
    ] = False,
    final_start: FinalStart = None,
    final: Annotated[
        bool, typer.Option("--final", help="After the choice, evaluate the span set aside, once.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Evaluate it though that was done before.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = OUT,
    as_json: Json = False,
) -> None:
    """Train walking forward, trade, compare with simple rules; write results.json and report.html."""
    from pairfolio.sources import DataOptions

    options = DataOptions(
        tuple(files or ()), spot, market, interval, start, end, adjust_splits, tuple(split or ())
    )
    settings = settings_of(
        config,
        {
            "network.kind": network,
            "loss.term": term,
            "loss.strength": strength,
            "loss.fee": fee_bps,
            "seeds": seeds,
            "training.epochs": epochs,
            "walk.train_days": train_days,
            "walk.validation_days": validation_days,
            "walk.test_days": test_days,
            "bars_per_year": bars_per_year,
            "final.start": final_start,
            "selection": {} if choose else None,
        },
    )
    if settings.selection is not None and (network is not None or strength is not None):
        raise SettingsError("network and λ are chosen from a grid; leave out --network and --lambda")
    _backtest(options, settings, final, again, out, as_json)


def _backtest(
    options: "DataOptions", settings: "Settings", final: bool, again: bool, out: Path, as_json: bool
) -> None:
    from pairfolio.backtest import run_backtest
    from pairfolio.final import refuse_second_look, with_final
    from pairfolio.report.console import counter, show_run
    from pairfolio.report.files import write_run
    from pairfolio.sources import load

    pair, regimes = load(options, settings.final_start)
    if final:
        refuse_second_look(pair, settings, again)
    same_every_time()
    with counter(Console(stderr=True)) as progress:
        run = run_backtest(pair, settings, regimes=regimes, progress=progress)
        if final:
            run = with_final(run, load(options)[0], progress)
    paths = write_run(run, out)
    if as_json:
        typer.echo(run.results.model_dump_json(indent=2))
    else:
        show_run(run.results, paths, Console())


for command in (train, apply, compare):
    app.command()(command)


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


if __name__ == "__main__":
    main()
