"""Options that several commands share, and what they mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pairfolio.config import Settings

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


def settings_of(config: Path | None, options: dict[str, object]) -> "Settings":
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


def same_every_time() -> None:
    """Sums over a varying number of threads would round differently from run to run."""
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
