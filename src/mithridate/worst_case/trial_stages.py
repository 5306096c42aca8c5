"""Has the stages of several trials done, each trial apart from the others' failures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mithridate.errors import AttackError
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.plan import Chain, Plan
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_attacks import NamedAttack
from mithridate.experiment.scheduler import Scheduler
from mithridate.experiment.stage_pool import Placement
from mithridate.experiment.store import Store
from mithridate.worst_case.trial_recipe import rows_recipe


class Planned(NamedTuple):
    """A trial's stages.

    Attributes:
        chains: One chain per seed.
        nodes: Their distinct stages by key, each after those before it.
    """

    chains: list[Chain]
    nodes: dict[str, StageNode]

    def ancestors(self, node: StageNode) -> list[StageNode]:
        """Return the stages before a stage, in their order."""
        found: list[StageNode] = []
        parent = node.parent
        while parent is not None:
            found.insert(0, self.nodes[parent])
            parent = self.nodes[parent].parent
        return found


class TrialStages:
    """Plans trials and has them done.

    Attributes:
        store: Where results go.
        made: Stages that were done; the others were in the store.

    Args:
        recipe: The recipe of the search.
        base: Folder in which relative paths are looked up first.
        store: Where results go.
        placement: Where stages run, and how many at the same time.
        monitor: Receives the progress.
    """

    def __init__(self, recipe: Recipe, base: Path, store: Store, placement: Placement, monitor: Monitor) -> None:
        self._recipe, self._base, self.store, self._placement, self._monitor = recipe, base, store, placement, monitor
        self._inputs: dict[frozenset[str], Inputs] = {}
        self.made = 0

    def inputs(self, released: Sequence[NamedAttack]) -> Inputs:
        """Return the recipe's rows, read once for all trials whose attacks after release need the same rows."""
        needs = frozenset(need for one in released for need in one.build().needs)
        if needs not in self._inputs:
            recipe = rows_recipe(self._recipe, released)
            self._inputs[needs] = Inputs(recipe, self._base, self.store.folder / "inputs")
        return self._inputs[needs]

    def planned(self, recipe: Recipe, note: str = "") -> Planned:
        """Return the stages of a trial.

        Args:
            recipe: Its recipe.
            note: What its stages' labels end with.
        """
        plan = Plan(recipe, self.inputs(recipe.evaluation.release_attacks))
        nodes = {
            # Alignment is the provider's, and no trial's.
            key: node if not note or node.stage == "alignment" else node.model_copy(update={"label": node.label + note})
            for key, node in plan.nodes.items()
        }
        return Planned(plan.chains, nodes)

    def run(self, trials: Sequence[Planned]) -> list[str | None]:
        """Have the stages of trials done.

        Returns:
            For each trial None, or why it could not be measured.

        Raises:
            MithridateError: If something else than a defense or an attack is at fault; what is finished is kept.
        """
        # The last ones first, so that of a stage that trials share the first trial's label is kept.
        shared = {key: node for trial in reversed(trials) for key, node in trial.nodes.items()}
        order = dict.fromkeys(key for trial in trials for key in trial.nodes)
        together = Planned([], {key: shared[key] for key in order})
        try:
            failed = self._scheduled(together)
        except AttackError:
            # It does not say of which trial it is, so each is tried alone; what is finished is not done again.
            return [self._alone(trial) for trial in trials]
        return [next((failed[key] for key in trial.nodes if key in failed), None) for trial in trials]

    def _alone(self, trial: Planned) -> str | None:
        try:
            failed = self._scheduled(trial)
        except AttackError as error:
            return str(error)
        return next(iter(failed.values()), None)

    def _scheduled(self, planned: Planned) -> dict[str, str]:
        scheduler = Scheduler(planned, self.store, self._placement, self._recipe.threads, self._monitor)
        try:
            scheduler.run()
        finally:
            self.made += scheduler.made
        return {key: reason for key, (_, reason) in scheduler.failed.items()}
