"""What the command prints."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from pairfolio.comparison import Comparison
from pairfolio.data.pair import PairFindings
from pairfolio.modelfile import ModelRecord
from pairfolio.report.page import number, open_jump, percent, share
from pairfolio.report.verdict import verdict
from pairfolio.results import Results, StrategyResult


@contextmanager
def counter(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Count networks trained, on a terminal."""
    columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("networks")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def show_findings(findings: PairFindings, console: Console) -> None:
    """Print what the candles hold."""
    console.print(
        f"{findings.common_bars} common bars of {findings.interval}, {findings.first} to {findings.last}; "
        f"{findings.bars_per_year:g} bars a year; correlation of returns {findings.correlation:.3f}; "
        f"{len(findings.gaps)} gaps, each counted as one step",
        highlight=False,
    )
    table = Table(
        "file", "bars", "missing", "no volume", "no range", "beyond ±50 %", "splits adjusted", "unused"
    )
    for file, lost in zip(findings.files, findings.lost, strict=True):
        splits = ", ".join(f"{event.time} × {event.value:g}" for event in file.adjusted_splits)
        table.add_row(
            escape(file.name),
            str(file.rows),
            str(file.missing_bars),
            str(file.zero_volume_bars),
            str(file.unchanged_bars),
            str(len(file.extreme_returns)),
            splits or "–",
            str(lost.before + lost.inside + lost.after),
        )
    console.print(table)
    for file in findings.files:
        for gap in file.gaps:
            console.print(
                f"{escape(file.name)}: {gap.missing} bars missing from {gap.last} to {gap.next}",
                highlight=False,
            )
        for jump in file.possible_splits:
            console.print(f"{escape(file.name)}: {open_jump(jump)}", highlight=False)
        for event in file.extreme_returns:
            console.print(
                f"{escape(file.name)}: return {percent(event.value)} at {event.time}", highlight=False
            )


def show_run(results: Results, paths: list[Path], console: Console) -> None:
    """Print the comparison, what may be said of it, and where the files are."""
    bars = f"{results.tested.bars} bars of {results.data.interval}"
    show_strategies(results.strategies, f"{results.pair[0]} / {results.pair[1]}, {bars}", console)
    if results.final is not None:
        title = f"final test, {results.final.tested.bars} bars from {results.final.tested.first}"
        show_strategies(results.final.strategies, title, console)
    for sentence in verdict(results):
        console.print(sentence, highlight=False)
    console.print("Written: " + ", ".join(escape(str(path)) for path in paths), highlight=False)


def show_strategies(strategies: list[StrategyResult], title: str, console: Console) -> None:
    """Print one line a strategy."""
    columns = ("strategy", "total", "Sharpe", "interval", "Sortino", "max drawdown", "turnover a year")
    table = Table(*columns, title=escape(title))
    for strategy in strategies:
        metrics, bounds = strategy.metrics, strategy.sharpe
        table.add_row(
            escape(strategy.label),
            percent(metrics.total_return),
            number(metrics.sharpe),
            f"{number(bounds.low)} … {number(bounds.high)}",
            number(metrics.sortino),
            share(metrics.max_drawdown),
            number(metrics.turnover_per_year, 1),
        )
    console.print(table)


def show_model(record: ModelRecord, folder: Path, console: Console) -> None:
    """Print what was trained."""
    settings = record.settings
    epochs = ", ".join(str(one.epoch) for one in record.seeds)
    said = (
        f"{record.pair[0]} / {record.pair[1]}, bars of {record.interval}: {settings.network.kind}, "
        f"{settings.loss.term} λ={settings.loss.strength:g}, {len(record.seeds)} seeds, "
        f"w* {record.minimum_variance_weight:.3f}, epochs kept {epochs}",
        f"trained on {record.training.first} to {record.training.last}, epoch chosen on "
        f"{record.validation.first} to {record.validation.last}; last bar used {record.last_bar}",
        f"Written: {folder}",
    )
    for line in said:
        console.print(escape(line), highlight=False)


def show_comparison(found: Comparison, console: Console) -> None:
    """Print the models and rules, and what to keep in mind."""
    bars = f"{found.tested.bars} bars of {found.data.interval} from {found.tested.first}"
    title = f"{found.pair[0]} / {found.pair[1]}, {bars}, fee {10_000 * found.fee:g} bp"
    show_strategies(found.strategies, title, console)
    for note in found.notes:
        console.print(escape(note), highlight=False)
