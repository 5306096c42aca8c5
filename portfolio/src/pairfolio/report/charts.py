"""Charts as SVG text, the same bytes for the same figures."""

import io
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pairfolio.evaluation.ledger import Ledger

# More points than this cannot be told apart on a page and make it heavy.
POINTS = 700
COLORS = {
    "network": "#c2410c",
    "network_lambda0": "#f59e0b",
    "half_half": "#111827",
    "static_minimum_variance": "#6b7280",
    "rolling_minimum_variance": "#0f766e",
    "rolling_equal_risk": "#38bdf8",
    "bought_once": "#7c3aed",
    "hold_a": "#65a30d",
    "hold_b": "#be185d",
    "spot": "#a3a3a3",
}
WEIGHTED = ("network_lambda0", "network", "rolling_minimum_variance", "half_half")
SUNK = ("network", "network_lambda0", "half_half", "rolling_minimum_variance", "bought_once")


def equity_chart(times: pd.DatetimeIndex, ledgers: dict[str, Ledger], labels: dict[str, str]) -> str:
    """Wealth from 1, logarithmic."""

    def draw(axes: Axes) -> None:
        for key, ledger in ledgers.items():
            places = _last_of_bins(len(times))
            axes.plot(
                times[places], ledger.equity[places], color=COLORS[key], label=labels[key], lw=_width(key)
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        axes.set_ylabel("wealth, start = 1")

    return _svg(draw, "Wealth of each strategy net of costs")


def weight_chart(
    times: pd.DatetimeIndex, ledgers: dict[str, Ledger], labels: dict[str, str], name: str
) -> str:
    """Weight of asset A."""

    def draw(axes: Axes) -> None:
        for key in (key for key in WEIGHTED if key in ledgers):
            places = _last_of_bins(len(times))
            axes.plot(
                times[places],
                ledgers[key].weights[places],
                color=COLORS[key],
                label=labels[key],
                lw=_width(key),
            )
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel(f"weight of {name}")

    return _svg(draw, f"Weight of {name} over time")


def drawdown_chart(times: pd.DatetimeIndex, ledgers: dict[str, Ledger], labels: dict[str, str]) -> str:
    """Loss from the peak, the worst of each stretch shown."""

    def draw(axes: Axes) -> None:
        starts = np.unique(np.linspace(0, len(times), min(POINTS, len(times)), endpoint=False).astype(int))
        for key in (key for key in SUNK if key in ledgers):
            wealth = np.concatenate([[1.0], ledgers[key].equity])
            losses = (wealth / np.maximum.accumulate(wealth) - 1)[1:]
            worst = np.minimum.reduceat(losses, starts)
            axes.plot(times[starts], 100 * worst, color=COLORS[key], label=labels[key], lw=_width(key))
        axes.set_ylabel("loss from peak, %")

    return _svg(draw, "Drawdowns net of costs")


def _last_of_bins(bars: int) -> np.ndarray:
    return np.unique(np.linspace(0, bars - 1, min(POINTS, bars)).astype(int))


def _width(key: str) -> float:
    return 1.8 if key == "network" else 1.0


def _svg(draw: Callable[[Axes], None], title: str) -> str:
    """Draw one chart; a fixed salt and no date keep its bytes the same."""
    settings = {
        "svg.hashsalt": "pairfolio",
        "svg.fonttype": "none",
        "font.size": 9,
        "font.family": "sans-serif",
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(9.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Title": title, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
