"""Makes the results of a run whose stages are done."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mithridate.errors import DefenseError
from mithridate.experiment.cells import evaluation, measured, points
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.plan import Chain, Plan
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.samples import escapes
from mithridate.experiment.store import Store
from mithridate.experiment.summary import aligned_models, variant_result, versus
from mithridate.report.claims import answer_claims
from mithridate.report.front import pareto_front
from mithridate.report.results import Failure, Results


class FinishedRun(NamedTuple):
    """A run of which every stage is done or has failed.

    Attributes:
        recipe: The recipe.
        plan: Its stages.
        store: Where their results are.
        failed: By key of each stage that could not be done: the stage whose defense could not act, and the reason.
    """

    recipe: Recipe
    plan: Plan
    store: Store
    failed: Mapping[str, tuple[StageNode, str]]

    def whole(self, chains: list[Chain]) -> list[Chain]:
        """Return the chains of which no stage failed."""
        return [chain for chain in chains if not any(node.key in self.failed for node in chain.needed)]

    @property
    def at_base(self) -> list[Chain]:
        """The chains at the recipe's setting that could be measured."""
        return self.whole(self.plan.at_base)

    def failures(self) -> list[Failure]:
        """Return every variant, setting and seed with a failed stage."""
        found = []
        for chain in self.plan.chains:
            causes = [self.failed[node.key] for node in chain.needed if node.key in self.failed]
            if causes:
                # The first: stages after it hold the same cause, handed down.
                node, reason = causes[0]
                failure = Failure(
                    variant=chain.variant.name,
                    setting=chain.setting,
                    at_base=chain.setting == self.plan.base,
                    seed=chain.seed,
                    stage=node.stage,
                    method=node.job.method,
                    reason=reason,
                )
                found.append(failure)
        return found


def results_of(finished: FinishedRun, facts: dict[str, Any]) -> Results:
    """Return the figures of a run.

    Args:
        finished: The run.
        facts: What the results say about it: name, command, versions, hashes, recipe, seeds.

    Raises:
        DefenseError: If no variant at all could be measured at the recipe's setting.
    """
    recipe, plan, store, _ = finished
    at_base, failures = finished.at_base, finished.failures()
    groups = {variant.name: [c for c in at_base if c.variant.name == variant.name] for variant in recipe.variants}
    # A variant that failed at every seed is among the failures only; one that failed at some keeps the others.
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        raise DefenseError(f"no variant could be measured: {failures[0].variant}: {failures[0].reason}")
    # Judge and test rows are the recipe's, so any evaluation tells the judge's name and the majority.
    first = evaluation(store, at_base[0])
    results = Results(
        **facts,
        answers="answers.html",
        judge=first.judge,
        majority=first.majority,
        variants=[variant_result(store, recipe, group) for group in groups.values()],
        aligned=aligned_models(store, at_base),
        failures=failures,
        base=plan.base,
        axes=recipe.axes.values(),
    )
    # The reference itself may have failed; the others are then reported without a comparison.
    if recipe.reference in groups:
        _compare(results, store, groups, recipe.reference)
    if results.axes:
        results.cells = [measured(store, chain) for chain in finished.whole(plan.chains)]
        results.points = points(results.cells)
        results.front = pareto_front(results)
        results.claims = answer_claims(results)
    return results


def _compare(results: Results, store: Store, groups: dict[str, list[Chain]], reference: str) -> None:
    """Compare every variant with the reference."""
    for variant in results.variants:
        if variant.name != reference:
            variant.versus_reference = versus(store, groups[variant.name], groups[reference])
    found = escapes(store, groups, reference, results)
    if found is not None:
        results.escapes, results.stopped, results.stayed = found
