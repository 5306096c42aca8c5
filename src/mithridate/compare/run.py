"""A whole comparison: from its file to cells, tables, plots and a page."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mithridate.compare.claims import answers
from mithridate.compare.forecast import Forecast, State
from mithridate.compare.grid import Grid
from mithridate.compare.measure import front, measured, points
from mithridate.compare.results import AXES, Comparison, Run
from mithridate.compare.roles import pipeline_of
from mithridate.compare.spec import Loaded, Spec, make_spec, read_spec, setting_of
from mithridate.errors import UsageError
from mithridate.pipeline.manifest import recipe_hash, versions
from mithridate.pipeline.scheduler import quiet_libraries, run_all
from mithridate.pipeline.store import Store, plain_disk_errors
from mithridate.training.state import write_json


def compare(
    spec: str | Path | dict[str, Any],
    out: str | Path | None = None,
    *,
    overrides: list[str] | None = None,
    jobs: int = 1,
    command: str | None = None,
    show: Callable[[State], None] | None = None,
) -> Comparison:
    """Run a set of pipelines over the axes and write tables, plots, the Pareto front and the answers to the claims.

    All stages lie in ``out/store`` under the hash of what produced them: cells share them, and calling this again does
    only what is missing.

    Args:
        spec: A file, or a tree of settings.
        out: Folder of the results; ``runs/<name>`` by default.
        overrides: ``a.b=value`` settings, for a file; ``recipe.a.b=value`` reaches into its recipe.
        jobs: Stages run at the same time, each in a process of its own.
        command: The command to show on the page.
        show: Told how far the comparison is.

    Returns:
        The comparison, also written to ``out/comparison.json`` and ``out/comparison.html``.

    Raises:
        UsageError: If overrides are given without a file.
        RecipeError: If the file has a fault.
        MithridateError: If a stage fails; what is finished stays in the store.
    """
    start = time.monotonic()
    if overrides and isinstance(spec, dict):
        raise UsageError("overrides reach into a comparison's file only; change the settings that are given instead")
    checked, base = Loaded(make_spec(spec), Path()) if isinstance(spec, dict) else read_spec(spec, overrides or [])
    folder = Path(out) if out is not None else Path("runs") / checked.name
    store = Store(folder / "store")
    quiet_libraries()
    with store.locked(), plain_disk_errors(folder):
        grid = Grid(checked, base, store.folder / "inputs")
        forecast = Forecast(grid.nodes, grid.names, jobs, show or (lambda state: None))
        run_all(store, grid.nodes, jobs, checked.recipe.threads, forecast)
        run = Run(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            seconds=time.monotonic() - start,
            made=forecast.made,
            store_bytes=sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()),
        )
        comparison = _summary(checked, grid, store, run)
        _write(comparison, folder)
    return comparison


def _summary(spec: Spec, grid: Grid, store: Store, run: Run) -> Comparison:
    base = spec.base()
    cells = [measured(store, place) for place in grid.places]
    pooled = points(cells)
    tree = base.model_dump(mode="json")
    comparison = Comparison(
        name=spec.name,
        seeds=base.seeds,
        base=setting_of(base),
        axes=spec.axes.values(),
        pipelines=[pipeline_of(variant) for variant in base.variants],
        cells=cells,
        points=pooled,
        front=[],
        claims=[],
        stages=len(grid.nodes),
        recipe=tree,
        hashes={"recipe": recipe_hash(tree)} | {f"input: {name}": value for name, value in grid.hashes.items()},
        versions=versions(),
        run=run,
    )
    at_base = [point for point in pooled if point.setting == comparison.base]
    comparison.front = front(comparison.pipelines, at_base)
    comparison.claims = answers(comparison)
    return comparison


def _write(comparison: Comparison, folder: Path) -> None:
    from mithridate.compare.figures import write_plots
    from mithridate.compare.page import write_page
    from mithridate.compare.tables import write_tables

    for axis in set(AXES) - set(comparison.axes):  # of an earlier call with other axes
        for stale in (*folder.glob(f"tables/{axis}.*"), *folder.glob(f"plots/{axis}.*")):
            stale.unlink()
    write_json(folder / "comparison.json", comparison.model_dump(mode="json"))
    write_tables(comparison, folder / "tables")
    write_plots(comparison, folder / "plots")
    write_page(comparison, folder / "comparison.html")
