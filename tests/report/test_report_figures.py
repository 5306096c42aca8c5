import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from mithridate.report import load_results
from mithridate.report.figures import loss_plots, outcome_bars
from mithridate.report.figures.canvas import PALETTE, svg
from mithridate.report.result_parts import OUTCOMES, WeightedRow, WeightedRows
from mithridate.report.row_separation import separation
from mithridate.report.text import clean, memory, number, p_value, percent, points, seconds, shorten

LABELED = st.tuples(st.floats(0, 10), st.booleans())


def weights_of(rows: list[tuple[float, bool | None]]) -> WeightedRows:
    return WeightedRows(rows=[WeightedRow(row=i, weight=w, harmful=h) for i, (w, h) in enumerate(rows)])


@given(st.lists(LABELED, min_size=2, max_size=40))
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[float, bool]]) -> None:
    found = separation(weights_of(list(rows)))
    harmful = [weight for weight, label in rows if label]
    benign = [weight for weight, label in rows if not label]
    if not harmful or not benign or sum(harmful) + sum(benign) == 0:
        assert found is None
        return
    pairs = [1.0 if b > h else 0.5 if b == h else 0.0 for b in benign for h in harmful]
    assert found is not None
    assert math.isclose(found.auroc, sum(pairs) / len(pairs), abs_tol=1e-12)
    assert math.isclose(found.weight_share, sum(harmful) / (sum(harmful) + sum(benign)))
    assert found.row_share == len(harmful) / len(rows)


def test_rows_of_unknown_label_are_counted_apart() -> None:
    found = separation(weights_of([(1.5, False), (0.5, True), (9.0, None)]))
    assert found is not None
    assert (found.auroc, found.weight_share, found.known, found.unknown) == (1.0, 0.25, 2, 1)


def test_every_color_drawn_is_left_to_the_style_sheet(report: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", report, flags=re.DOTALL)
    assert len(drawings) == 10
    for drawing in drawings:
        assert not re.search(r"(fill|stroke): #", drawing)
        used = set(re.findall(r"var\(--(\w+)\)", drawing))
        assert "muted" in used
        assert used <= set(PALETTE)


def test_the_style_sheet_knows_every_color_in_light_dark_and_print(report: str) -> None:
    for color in PALETTE:
        assert len(re.findall(rf"--{color}: #", report)) == 3, color


def test_a_drawing_carries_no_date_and_no_address() -> None:
    def draw(figure: Any) -> None:
        figure.add_subplot().set_title("<b> & $x$")

    drawing = svg("one", 100, draw)
    assert drawing.startswith('<svg viewBox="0 0 400 100"')
    assert "http" not in drawing
    assert "metadata" not in drawing
    assert "&lt;b&gt; &amp; $x$" in drawing


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0.41249), "41.2%"),
        (percent(-1e-12), "0.0%"),
        (points(-0.41), "−41.0 points"),
        (points(0.012), "+1.2 points"),
        (points(-0.0001), "±0.0 points"),
        (p_value(1e-9), "p < 0.001"),
        (p_value(0.0), "p < 0.001"),
        (p_value(0.0421), "p = 0.042"),
        (p_value(0.34), "p = 0.34"),
        (seconds(12.13), "12.1 s"),
        (seconds(600), "10.0 min"),
        (seconds(36_000), "10.0 h"),
        (memory(0), "0 B"),
        (memory(123_456_789), "118 MiB"),
        (memory(15_000_000_000), "14.0 GiB"),
        (number(18432), "18,432"),
        (number(-0.000123456), "−0.0001235"),
        (number(float("nan")), "nan"),
        (clean("a\nb\t\x1b"), "a�b��"),
        (clean("a\nb\t\x1b", lines=True), "a\nb\t�"),
        (shorten("abcdef", 4), "abc…"),
        (shorten("abcd", 4), "abcd"),
    ],
)
def test_how_figures_are_shown(shown: str, expected: str) -> None:
    assert shown == expected


def test_outcomes_fill_each_bar_in_order_and_harm_is_drawn_as_harm(run: dict[str, Any]) -> None:
    variants = load_results(run).variants
    colors = {}
    for name in ("harmful", "help"):
        figure = Figure()
        outcome_bars._draw(figure, variants, name)
        axes = figure.axes[0]
        shares = [[round(bar.get_width(), 6) for bar in group] for group in axes.containers]
        starts = [[round(bar.get_x(), 6) for bar in group] for group in axes.containers]
        found = [variant.outcomes[name] for variant in variants]
        assert shares == [[round(100 * getattr(o, outcome), 6) for o in found] for outcome in OUTCOMES]
        for row in range(len(variants)):
            ends = [start[row] + share[row] for start, share in zip(starts, shares, strict=True)]
            assert [start[row] for start in starts] == pytest.approx([0, *ends[:-1]])
            assert ends[-1] == pytest.approx(100)
        colors[name] = [group[0].get_facecolor() for group in axes.containers]
    assert colors["harmful"][:4] == colors["help"][:4]
    assert colors["harmful"][4] != colors["help"][4]


def test_every_training_is_a_line_and_a_loss_that_is_not_finite_a_gap(run: dict[str, Any]) -> None:
    curves = load_results(run).variants[0].loss_curves
    curves[1].losses[3] = float("inf")
    figure = Figure()
    loss_plots._draw(figure, {"one": curves[:2], "two": curves[2:]})
    lines = figure.axes[0].lines
    assert [line.get_color() for line in lines] == [loss_plots.SERIES[0], loss_plots.SERIES[0], loss_plots.SERIES[1]]
    assert [math.isnan(line.get_ydata()[3]) for line in lines] == [False, True, False]
    assert list(lines[2].get_xdata()) == curves[2].steps
