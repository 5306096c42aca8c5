"""Searches every defense's worst case: trials that are ordinary stages, told to Optuna, and what came of them."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mithridate.errors import DefenseError, UsageError
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.engine import checked_recipe
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.recipe import Recipe, Variant
from mithridate.experiment.row_files import stored_texts
from mithridate.experiment.stage_pool import Placement, check_placement
from mithridate.experiment.store import Store
from mithridate.experiment.workers import quiet_libraries
from mithridate.training.processes import refuse_launcher
from mithridate.worst_case.prompt_halves import halves
from mithridate.worst_case.rows import searched_rows
from mithridate.worst_case.search_cost import SearchCost, UploadSize, cost_of, upload_sizes
from mithridate.worst_case.search_identity import identity_of_row
from mithridate.worst_case.search_space import Space
from mithridate.worst_case.studies import AskedTrial, RowStudy, opened, require_optuna
from mithridate.worst_case.trial_recipe import own_recipe, trial_recipe
from mithridate.worst_case.trial_score import TrialScore, scored
from mithridate.worst_case.trial_stages import TrialStages
from mithridate.worst_case.worst_results import WorstCases

TRIALS = 40
"""Trials of TamperBench's selection."""

RecipeLike = str | Path | dict[str, Any] | Recipe


class SearchMonitor(Monitor):
    """Receives the progress of a search and shows nothing."""

    def costs(self, cost: SearchCost) -> None:
        """Called before the first stage, and again once the recipe's own setting was timed."""

    def tried(self, row: str, number: int, of: int, found: TrialScore | str, feasible: bool) -> None:
        """Called when a trial has a score, or a reason for having none."""


def redteam(
    recipe: RecipeLike,
    out: str | Path | None = None,
    *,
    trials: int = TRIALS,
    overrides: list[str] | None = None,
    jobs: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    command: str | None = None,
    monitor: SearchMonitor | None = None,
) -> WorstCases:
    """Search the worst case of every attacked row of a recipe.

    For each row, learning rate, steps, batch, adapter rank, scheduler, the attack on the upload and the attack after
    release are varied to maximize the harmful score, as long as the model keeps its use. A setting is chosen by one
    half of the harmful prompts, and its score is told on the other half. A search that was interrupted goes on where it
    stopped, and one that is asked for more trials keeps those it has.

    Args:
        recipe: A file, a tree of settings, or a checked recipe; ``redteam:`` holds the ranges.
        out: Folder of the results; ``runs/<name>-redteam`` by default.
        trials: Trials of each row.
        overrides: ``a.b=value`` settings, for a file.
        jobs: Stages to run at the same time; with more than one, each in a process of its own. By default one, or as
            many as a cluster takes.
        engine: ``local`` runs stages on this machine, ``ray`` on the nodes of a Ray cluster, which share ``out``.
        ray_address: Address of the cluster; by default what ``RAY_ADDRESS`` names, or the one on this machine.
        command: The command to show in the result.
        monitor: Receives the progress.

    Returns:
        Every row's worst case, also written to ``out/redteam.json`` and ``out/redteam.html``, and as recipes that
        repeat it to ``out/worst``.

    Raises:
        RecipeError: If the recipe has a fault, or a range cannot be searched.
        UsageError: If Optuna is not installed, the folder holds the search of another recipe, other rows or other
            code, or the cluster cannot do the work.
        DefenseError: If the undefended control cannot be measured.
        MithridateError: If a stage fails; what is finished stays in the store.
    """
    from mithridate.worst_case.worst_reading import worst_cases
    from mithridate.worst_case.writing import write

    start = time.monotonic()
    placement = Placement(engine, jobs, ray_address=ray_address)
    check_placement(placement)
    with _searching(recipe, out, trials, overrides or [], placement, monitor or SearchMonitor()) as search:
        search.measure_own()
        while asked := search.asked():
            search.run(asked)
        found = worst_cases(search, command)
        found.stages_made, found.seconds = search.stages.made, time.monotonic() - start
        write(found, search)
    return found


def redteam_cost(
    recipe: RecipeLike, out: str | Path | None = None, *, trials: int = TRIALS, overrides: list[str] | None = None
) -> SearchCost:
    """Return what `redteam` with the same arguments still costs; nothing is trained.

    Raises:
        UsageError: As for `redteam`.
    """
    with _searching(recipe, out, trials, overrides or [], Placement(), SearchMonitor()) as search:
        return search.cost()


class Search:
    """A search under way.

    Attributes:
        recipe: The recipe.
        folder: Folder of the results.
        base: Folder in which relative paths are looked up first.
        trials: Trials of each row.
        rows: The rows.
        space: What is searched.
        stages: Plans and does stages.
        own: The stages of each row at the recipe's own setting.
        own_failed: Why a row could not be measured at the recipe's own setting.
        halves: Which prompts choose, and which report.
        studies: The trials of each row.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, base: Path, trials: int, stages: TrialStages, monitor: SearchMonitor
    ) -> None:
        self.recipe, self.folder, self.base, self.trials = recipe, folder, base, trials
        self.stages, self._monitor = stages, monitor
        self.rows, self.space = searched_rows(recipe), Space(recipe)
        self.own = {row.name: stages.planned(own_recipe(recipe, row)) for row in self.rows.searched}
        self.own_failed: dict[str, str] = {}
        inputs = stages.inputs([])
        groups = None if inputs.evaluation_groups is None else stored_texts(inputs.evaluation_groups)
        self.halves = halves(stored_texts(inputs.evaluation), groups, self.space.ranges.seed)
        self.studies: dict[str, RowStudy] = {}

    def open_studies(self, storage: Any) -> None:
        """Find the trials that are in the store.

        Raises:
            UsageError: If they are of another recipe, other rows or other code.
        """
        seed, control, inputs = self.space.ranges.seed, self.rows.control, self.stages.inputs([])
        for row in self.rows.searched:
            own = [key for name in (row.name, control.name) for key in self.own[name].nodes]
            identity = identity_of_row(self.recipe, row, control, self.space, inputs, own)
            self.studies[row.name] = RowStudy(storage, row.name, identity, self.space, seed)

    def cost(self) -> SearchCost:
        """Return what is left to do."""
        finished = {name: len(study.finished) for name, study in self.studies.items()}
        store = self.stages.store
        return cost_of(self.recipe, self.space, self.own, finished, self.trials, self._uploads, store)

    @functools.cached_property
    def _uploads(self) -> list[UploadSize]:
        return upload_sizes(self.recipe, self.rows.control, self.space, self.stages)

    def measure_own(self) -> None:
        """Measure every row at the recipe's own setting.

        Raises:
            DefenseError: If the control cannot be measured.
        """
        self._monitor.costs(self.cost())
        reasons = self.stages.run(list(self.own.values()))
        self.own_failed = {name: why for name, why in zip(self.own, reasons, strict=True) if why is not None}
        control = self.rows.control.name
        if control in self.own_failed:
            raise DefenseError(f"the control '{control}' could not be measured: {self.own_failed[control]}")
        self._monitor.costs(self.cost())

    def own_score(self, row: str, places: tuple[int, ...]) -> TrialScore | None:
        """Return what a row does at the recipe's own setting; None where it could not be measured."""
        if row in self.own_failed:
            return None
        return scored(self.stages.store, self.own[row].chains, None, places)

    @property
    def baseline(self) -> TrialScore:
        """What the control does at the recipe's own setting."""
        found = self.own_score(self.rows.control.name, self.halves.chosen_on)
        assert found is not None  # `measure_own` has raised
        return found

    def asked(self) -> list[tuple[Variant, AskedTrial]]:
        """Return the next trials of all rows; none once every row has as many as were asked for."""
        left = {row.name: self.trials - len(self.studies[row.name].finished) for row in self.rows.searched}
        wanted = [row for row in self.rows.searched if left[row.name] > 0]
        return [(row, trial) for row in wanted for trial in self.studies[row.name].asked(left[row.name])]

    def run(self, asked: list[tuple[Variant, AskedTrial]]) -> None:
        """Have trials done, and tell their studies."""
        planned = [
            self.stages.planned(trial_recipe(self.recipe, row, trial.setting), f" · trial {trial.number}")
            for row, trial in asked
        ]
        reasons = self.stages.run(planned)
        for (row, trial), stages, reason in zip(asked, planned, reasons, strict=True):
            found: TrialScore | str = reason or ""
            limits: dict[str, float] = {}
            if reason is None:
                release = trial.setting.release
                label = None if release is None else release.label
                # One half of the prompts only: the other is for the setting that is chosen in the end.
                found = scored(self.stages.store, stages.chains, label, self.halves.chosen_on)
                limits = self.limits(found)
            self.studies[row.name].tell(trial, found, limits)
            feasible = reason is None and max(limits.values()) <= 0
            self._monitor.tried(row.name, trial.number, self.trials, found, feasible)

    def limits(self, score: TrialScore) -> dict[str, float]:
        """Return by how much a score exceeds each limit."""
        return score.over(self.baseline.accuracy, self.space.ranges.utility_loss)


@contextmanager
def _searching(
    recipe: RecipeLike,
    out: str | Path | None,
    trials: int,
    overrides: list[str],
    placement: Placement,
    monitor: SearchMonitor,
) -> Iterator[Search]:
    require_optuna()
    refuse_launcher("a search runs")
    if trials < 1:
        raise UsageError(f"trials must be at least 1, not {trials}")
    base = Path(recipe).parent if isinstance(recipe, (str, Path)) else Path()
    checked = checked_recipe(recipe, overrides)
    folder = Path(out) if out is not None else Path("runs") / f"{checked.name}-redteam"
    store = Store(folder / "store")
    quiet_libraries()
    with store.locked(), plain_disk_errors(folder), opened(store.folder) as storage:
        search = Search(checked, folder, base, trials, TrialStages(checked, base, store, placement, monitor), monitor)
        search.open_studies(storage)
        yield search
