"""The plots of a run with axes as SVG files of their own, on white."""

from pathlib import Path

from mithridate.files import write_whole
from mithridate.report.figures.axis_plots import axis_figure
from mithridate.report.figures.canvas import WIDTH, Draw, document
from mithridate.report.figures.claim_plots import claims_figure
from mithridate.report.figures.score_plots import tradeoff_figure
from mithridate.report.results import Results


def write_plots(results: Results, folder: Path) -> None:
    """Write every plot as a file."""
    # Wider than on the page, where they must fit a phone.
    files: dict[str, tuple[float, Draw, float]] = {
        axis: (*axis_figure(results, axis), WIDTH + 120) for axis in results.axes
    }
    files["pareto"] = (*tradeoff_figure(results), WIDTH + 120)
    files["claims"] = (*claims_figure(results.claims), 2.4 * WIDTH)
    for name, (height, draw, width) in files.items():
        write_whole(folder / f"{name}.svg", document(height, draw, width).encode())
