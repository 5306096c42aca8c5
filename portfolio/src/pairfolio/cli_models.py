"""The commands on saved models: train, apply, compare."""

import os
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from rich.console import Console

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
    same_every_time,
    settings_of,
)

From = Annotated[str | None, typer.Option("--from", help="First bar decided; bars before it only warm up.")]
Overlap = Annotated[bool, typer.Option("--allow-overlap", help="Decide bars that the model was trained on.")]
Others = Annotated[
    bool, typer.Option("--other-assets", help="Use it on assets not shown to be those trained on.")
]


def train(
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
    final_start: FinalStart = None,
    fold: Annotated[
        int | None,
        typer.Option(min=0, help="Train the model of this fold of a backtest instead of the last bars."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the model; must not be there yet.")] = Path("model"),
    as_json: Json = False,
) -> None:
    """Train on the last bars of the data and save the model."""
    from pairfolio.backtest import versions
    from pairfolio.learning.model import fit
    from pairfolio.learning.walkforward import fold_block, last_block
    from pairfolio.modelfile import refuse_existing, save_model
    from pairfolio.report.console import counter, show_model
    from pairfolio.sources import DataOptions, load

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
            "final.start": final_start,
        },
    )
    refuse_existing(out)
    pair = load(options, settings.final_start)[0]
    block = last_block(pair, settings) if fold is None else fold_block(pair, settings, fold)
    same_every_time()
    done = 0
    with counter(Console(stderr=True)) as progress:

        def count() -> None:
            nonlocal done
            done += 1
            progress(done, len(settings.seeds))

        model = fit(pair, block, settings, fold or 0, count)
    record = save_model(out, model, pair, block, fold or 0, versions())
    if as_json:
        typer.echo(record.model_dump_json(indent=2))
    else:
        show_model(record, out, Console())


def apply(
    model: Annotated[Path, typer.Argument(help="Folder written by train.")],
    files: Files = None,
    spot: Spot = None,
    market: Market = None,
    interval: Bars = None,
    start: Start = None,
    end: End = None,
    adjust_splits: Adjust = False,
    split: Stated = None,
    first: From = None,
    after: Annotated[
        Path | None, typer.Option(help="Weights of an earlier call; go on at the bar after its last.")
    ] = None,
    allow_overlap: Overlap = False,
    other_assets: Others = False,
    out: Annotated[
        Path | None, typer.Option(help="File for the weights; standard output without it.")
    ] = None,
) -> None:
    """Give the weight of A for each new bar, and what must be traded for it."""
    from pairfolio.apply import apply_model, as_csv, read_holding
    from pairfolio.errors import SettingsError
    from pairfolio.modelfile import load_model
    from pairfolio.sources import DataOptions, load, parse_time

    if after is not None and (first is not None or (out is not None and out.resolve() == after.resolve())):
        raise SettingsError(
            "--after goes on at the bar after its last; leave out --from, and name another --out"
        )
    saved = load_model(model)
    options = DataOptions(
        tuple(files or ()), spot, market, interval, start, end, adjust_splits, tuple(split or ())
    )
    same_every_time()
    applied = apply_model(
        saved,
        load(options)[0],
        start=parse_time(first),
        after=None if after is None else read_holding(after),
        allow_overlap=allow_overlap,
        other_assets=other_assets,
    )
    for note in applied.notes:
        typer.echo(f"pairfolio: {note}", err=True)
    text = as_csv(applied, saved)
    if out is None:
        typer.echo(text, nl=False)
    else:
        _put(out, text)


def compare(
    models: Annotated[list[Path], typer.Argument(help="Folders written by train.")],
    data: Annotated[list[Path] | None, typer.Option("--data", help="Candles of A, then of B.")] = None,
    spot: Spot = None,
    market: Market = None,
    interval: Bars = None,
    start: Start = None,
    end: End = None,
    adjust_splits: Adjust = False,
    split: Stated = None,
    first: From = None,
    fee_bps: Fee = None,
    allow_overlap: Overlap = False,
    other_assets: Others = False,
    final: Annotated[
        bool, typer.Option("--final", help="Trade bars that a model sets aside, and record the look.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File for the figures as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Set saved models and the fixed rules side by side on the same bars."""
    from pairfolio.comparison import compare as compare_models
    from pairfolio.errors import SettingsError
    from pairfolio.modelfile import load_model
    from pairfolio.report.console import show_comparison
    from pairfolio.sources import DataOptions, load, parse_time

    saved = {str(path): load_model(path) for path in models}
    if len(saved) < len(models):
        raise SettingsError("a model is named twice; name each once")
    options = DataOptions(
        tuple(data or ()), spot, market, interval, start, end, adjust_splits, tuple(split or ())
    )
    same_every_time()
    found = compare_models(
        saved,
        load(options)[0],
        start=parse_time(first),
        fee=None if fee_bps is None else fee_bps / 10_000,
        allow_overlap=allow_overlap,
        other_assets=other_assets,
        final=final,
    )
    if out is not None:
        _put(out, found.model_dump_json(indent=2) + "\n")
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        show_comparison(found, Console())


def _put(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{uuid4().hex}.partial"
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
