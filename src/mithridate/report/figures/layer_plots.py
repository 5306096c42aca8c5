"""Layer profiles: where in the network a perturbation acts."""

import math
from typing import Any

from mithridate.report.figures.canvas import PALETTE, svg
from mithridate.report.result_parts import LayerNorms
from mithridate.report.text import clean, shorten

PANEL_HEIGHT = 125
TICKS = 16  # more layer names would overlap at a width of 400 pixels


def layer_figure(name: str, profiles: list[LayerNorms]) -> str:
    """Return the norm per layer, a bar for the mean over seeds and a dot per seed, one panel per space."""
    spaces = {"norm in LoRA factors": [p.factor_norm for p in profiles], "norm of ΔW": [p.delta_norm for p in profiles]}
    # A method may log one of the two norms only; an empty panel would look like a norm of 0.
    shown = {title: [norms for norms in seeds if norms] for title, seeds in spaces.items()}
    shown = {title: seeds for title, seeds in shown.items() if seeds}
    height = 50 + PANEL_HEIGHT * len(shown)
    return svg(name, height, lambda figure: _draw(figure, profiles[0].layers, shown))


def _draw(figure: Any, layers: list[str], spaces: dict[str, list[list[float]]]) -> None:
    panels = figure.subplots(len(spaces), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, seeds) in zip(panels, spaces.items(), strict=True):
        places = range(len(layers))
        means = [sum(values) / len(seeds) for values in zip(*seeds, strict=True)]
        axes.bar(places, means, width=0.62, color=PALETTE["defended"], alpha=0.4)
        for norms in seeds:
            axes.plot(places, norms, "o", color=PALETTE["defended"], markersize=3.2)
        axes.set_ylabel(title)
        axes.grid(axis="x", visible=False)
    step = math.ceil(len(layers) / TICKS)
    panels[-1].set_xticks(range(0, len(layers), step), [shorten(clean(name), 12) for name in layers[::step]])
    panels[-1].set_xlabel("layer")
