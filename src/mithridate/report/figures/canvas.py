"""A matplotlib figure that becomes inline SVG: same bytes every time, colors left to the page's style sheet."""

import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Every color drawn is one of these, in lower case as matplotlib writes it; in the SVG it becomes var(--name), which the
# style sheet sets for light and dark.
PALETTE = {
    "ink": "#1d2430",
    "muted": "#667085",
    "grid": "#e4e2dc",
    "paper": "#fffefb",
    "undefended": "#b4432f",
    "clean": "#7a7f87",
    "defended": "#1f6f8b",
    "good": "#3d7f4f",
    "chosen": "#a8730f",
    # Lines of many pipelines: apart from each other also for color-blind readers (after Okabe and Ito, 2008).
    "series1": "#0072b2",
    "series2": "#d55e00",
    "series3": "#009e73",
    "series4": "#b0569a",
    "series5": "#4a9fd8",
    "series6": "#c98a00",
    "series7": "#882255",
    "series8": "#6b6b1e",
}
MARKERS = {"undefended": "s", "clean": "^", "defended": "o"}

Draw = Callable[[Any], None]
"""Draws on the figure it is given."""

WIDTH = 400  # native width in CSS pixels: readable when scaled to a narrow phone

_STYLE = {
    # Without a salt matplotlib draws random element ids, and no two reports would be equal.
    "svg.hashsalt": "mithridate",
    # Text stays text: readable by screen readers and set in the page's own font.
    "svg.fonttype": "none",
    # A `$` in a variant's name is no formula.
    "text.parse_math": False,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "text.color": PALETTE["ink"],
    "axes.edgecolor": PALETTE["muted"],
    "axes.labelcolor": PALETTE["muted"],
    "xtick.color": PALETTE["muted"],
    "ytick.color": PALETTE["muted"],
    "grid.color": PALETTE["grid"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
    "legend.fontsize": 10,
}


def svg(name: str, height: float, draw: Draw) -> str:
    """Return what `draw` puts on a figure as inline SVG.

    Args:
        name: Prefix of the element ids, distinct within the page.
        height: Native height in CSS pixels.
        draw: Draws on the figure it is given.
    """
    return _inline(name, document(height, draw, transparent=True))


def document(height: float, draw: Draw, width: float = WIDTH, transparent: bool = False) -> str:
    """Return what `draw` puts on a figure as an SVG file, on white unless transparent.

    Args:
        height: Native height in CSS pixels.
        draw: Draws on the figure it is given.
        width: Native width in CSS pixels.
        transparent: Leave the background out.
    """
    with matplotlib.rc_context():
        # The reader's matplotlibrc must not change the report.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # Figure, not pyplot, which keeps figures alive and may open a window; 72 dpi makes a point one CSS pixel.
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        draw(figure)
        out = StringIO()
        # No date, which would change the bytes, and no creator, which would change them with matplotlib's version.
        figure.savefig(out, format="svg", transparent=transparent, metadata=dict.fromkeys(("Date", "Creator")))
    return out.getvalue()


def _inline(name: str, document: str) -> str:
    """Return the SVG element alone, with ids of its own, no metadata and themed colors."""
    element = document[document.index("<svg") :].strip()
    element = re.sub(r"<metadata>.*?</metadata>", "", element, count=1, flags=re.DOTALL)
    head, body = element.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    if box is None:
        raise RuntimeError("matplotlib wrote an SVG without a viewBox")
    # Ids are global in an HTML page, and every drawing numbers its own from the start.
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    for color, value in PALETTE.items():
        body = body.replace(value, f"var(--{color})")
    # No width or height, so that it scales with the page; hidden from screen readers, as <figure> has a label.
    return f'<svg viewBox="{box.group(1)}" aria-hidden="true">{body}'
