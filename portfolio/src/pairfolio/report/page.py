"""The page of a run: one HTML file with nothing to load."""

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pairfolio.backtest import Run
from pairfolio.data.findings import OpenJump
from pairfolio.report.charts import drawdown_chart, equity_chart, weight_chart
from pairfolio.report.verdict import verdict


def render(run: Run) -> str:
    """The page as text; every name from the data is escaped."""
    environment = Environment(
        loader=PackageLoader("pairfolio.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "share": share, "number": number, "open_jump": open_jump}
    results = run.results
    labels = {strategy.key: strategy.label for strategy in results.strategies}
    charts = {
        "Wealth": equity_chart(run.times, run.ledgers, labels),
        "Weights": weight_chart(run.times, run.ledgers, labels, results.pair[0]),
        "Drawdowns": drawdown_chart(run.times, run.ledgers, labels),
    }
    return environment.get_template("report.html.j2").render(
        results=results,
        labels=labels,
        verdict=verdict(results),
        # Matplotlib escapes the labels it draws, so the charts are safe as they are.
        charts={title: Markup(text) for title, text in charts.items()},
    )


def open_jump(jump: OpenJump) -> str:
    """One sentence on a jump that may be a small split."""
    volume = "unknown" if jump.volume_change is None else f"{jump.volume_change:.2g} times the day before"
    return (
        f"at {jump.time} the open is {jump.value:.3g} times the close before, the day's volume {volume}; "
        "this may be a split, and without an underlying nothing tells"
    )


def percent(value: float | None) -> str:
    """A return as percent, signed, with a true minus sign."""
    return "–" if value is None else f"{100 * value:+.1f} %".replace("-", "−")


def share(value: float | None) -> str:
    """A quantity that cannot be negative, as percent."""
    return "–" if value is None else f"{100 * value:.1f} %"


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")
