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
    from pairfolio.config import Settings
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
Config = Annotated[Path | None, typer.Option(help="Settings as JSON, such as an earlier config.json.")]
Network = Annotated[str | None, typer.Option(help="lstm, gru, tcn, tabl or mlp.")]
TermName = Annotated[str | None, typer.Option("--term", help="proximity, bias, variance or none.")]
Lambda = Annotated[float | None, typer.Option("--lambda", help="Strength of the term.")]
Fee = Annotated[float | None, typer.Option(help="Fee in basis points of each trade.")]
Seeds = Annotated[int | None, typer.Option(min=1, max=100, help="Seeds 0, 1, … to train and average.")]
Epochs = Annotated[int | None, typer.Option(help="Most epochs of a network.")]
TrainDays = Annotated[float | None, typer.Option(help="Days to train on.")]
ValidationDays = Annotated[float | None, typer.Option(help="Days to choose the epoch on.")]
Year = Annotated[float | None, typer.Option(help="For markets that close; 252 for daily bars.")]
FinalStart = Annotated[
    str | None, typer.Option(help="First day set aside; nothing from it on is read before --final.")
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
    settings = _settings(
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
    _backtest(options, settings, final, again, out, as_json)


def _settings(config: Path | None, options: dict[str, object]) -> "Settings":
    """Settings of a file, with the options given set over them."""
    from pairfolio.config import Settings, load_settings, override

    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(fee := given.get("loss.fee"), float):
        given["loss.fee"] = fee / 10_000
    if isinstance(count := given.get("seeds"), int):
        given["seeds"] = tuple(range(count))
    base = load_settings(config) if config else Settings()
    if base.selection is not None:
        # A grid of the file is kept when --choose asks for one.
        given.pop("selection", None)
    return override(base, given)


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
    _same_every_time()
    with counter(Console(stderr=True)) as progress:
        run = run_backtest(pair, settings, regimes=regimes, progress=progress)
        if final:
            run = with_final(run, load(options)[0], progress)
    paths = write_run(run, out)
    if as_json:
        typer.echo(run.results.model_dump_json(indent=2))
    else:
        show_run(run.results, paths, Console())


def _same_every_time() -> None:
    """Sums over a varying number of threads would round differently from run to run."""
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


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
