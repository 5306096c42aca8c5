"""Turns the records of all stages into the figures of `results.json`."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from mithridate.evaluation.helpfulness import kept
from mithridate.evaluation.intervals import Score, paired_test
from mithridate.evaluation.outcomes import Outcome, counts
from mithridate.experiment.cells import broken_harmful, evaluation, help_of, row_weights
from mithridate.experiment.helped_answers import HelpedAnswers, helped_answers
from mithridate.experiment.plan import Chain
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.samples import samples
from mithridate.experiment.stage_records import EvaluationRecord, ReleaseRecord
from mithridate.experiment.stage_summary import summarize_stages
from mithridate.experiment.store import Store
from mithridate.report.result_parts import Attack, Helpfulness, OutcomeShares, ReleaseResult, VersusReference
from mithridate.report.results import AlignedModel, VariantResult
from mithridate.report.scores import ScoreOverSeeds, over_seeds
from mithridate.report.seed_statistics import paired_bootstrap

HelpPair = tuple[HelpedAnswers, HelpedAnswers]
"""What a model helps with, and what its aligned model helps with."""


def variant_result(store: Store, recipe: Recipe, chains: Sequence[Chain]) -> VariantResult:
    """Return the figures of one variant over its seeds.

    Args:
        store: Where the stages are.
        recipe: The recipe.
        chains: The variant at the recipe's setting, one for every seed that could be measured.
    """
    variant, stages = chains[0].variant, summarize_stages(store, chains)
    user = recipe.streams.user
    pairs = [help_of(store, chain) for chain in chains]
    return VariantResult(
        name=variant.name,
        alignment=variant.alignment.method,
        finetuning=variant.finetuning.method,
        posttuning=" + ".join(choice.method for choice in variant.posttuning) or "none",
        attack=Attack(
            ratio=user.ratio if variant.ratio is None else variant.ratio,
            size=user.size,
            method=None if user.attack is None else user.attack.method,
        ),
        folders=[folder_of(chain) for chain in chains],
        seeds=[chain.seed for chain in chains],
        # Of the first seed alone: every seed draws other rows, of which no mean can be taken.
        row_weights=row_weights(store, chains[0].nodes, chains[0].seed),
        samples=samples(store, chains[0]),
        **_measured([evaluation(store, chain) for chain in chains], [pair for pair in pairs if pair is not None]),
        **stages._asdict(),
    )


def aligned_models(store: Store, chains: Sequence[Chain]) -> list[AlignedModel]:
    """Return the models before fine-tuning that were measured, each once.

    Args:
        store: Where the stages are.
        chains: The variants at the recipe's setting whose aligned model could be measured.
    """
    groups: dict[str, list[Chain]] = {}
    # By stage, not by variant: all variants with the same alignment share one model, measured once.
    for chain in chains:
        if chain.aligned is not None:
            groups.setdefault(chain.aligned.key, []).append(chain)
    several = len(groups) > 1
    alignments = [group[0].variant.alignment.method for group in groups.values()]
    found = []
    for group in groups.values():
        first = group[0].variant
        # One method with two settings gives two models of the same name; a variant's name tells them apart.
        twice = alignments.count(first.alignment.method) > 1
        name = f"aligned: {first.alignment.method}" if several else "aligned"
        found.append(_aligned(store, group, f"{name} ({first.name})" if twice else name))
    return found


def _aligned(store: Store, group: Sequence[Chain], name: str) -> AlignedModel:
    node = group[0].aligned
    assert node is not None
    record = store.record(node, EvaluationRecord)
    own = None if record.help is None else helped_answers(record.help, record.help)
    return AlignedModel(
        name=name,
        alignment=group[0].variant.alignment.method,
        variants=list(dict.fromkeys(chain.variant.name for chain in group)),
        **_measured([record], [(own, own)] if own is not None else []),
    )


def versus(store: Store, mine: Sequence[Chain], reference: Sequence[Chain]) -> VersusReference | None:
    """Return the paired difference to the reference on the same prompts and seeds; None if they share no seed."""
    # In pairs, since both answer the same prompts: what differs between prompts would otherwise hide the difference.
    seeds = [chain.seed for chain in mine if chain.seed in {other.seed for other in reference}]
    if not seeds:
        return None
    own, other = _harmful(store, mine, seeds), _harmful(store, reference, seeds)
    test = paired_test(_joined(own), _joined(other))
    differences = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(own, other, strict=True)]
    interval = paired_bootstrap(differences)
    return VersusReference(
        reference=reference[0].variant.name,
        difference=test.difference,
        p_value=test.p_value,
        low=interval.low,
        high=interval.high,
    )


def _harmful(store: Store, chains: Sequence[Chain], seeds: Sequence[int]) -> list[list[bool]]:
    """Return the verdicts on the answers of some seeds."""
    by_seed = {chain.seed: evaluation(store, chain).harmful for chain in chains}
    return [by_seed[seed] for seed in seeds]


def _joined(seeds: Sequence[Sequence[bool]]) -> list[bool]:
    return list(itertools.chain.from_iterable(seeds))


def _measured(found: Sequence[EvaluationRecord], pairs: Sequence[HelpPair]) -> dict[str, Any]:
    """Return the fields of a `MeasuredModel` over seeds."""
    outcomes = {"harmful": _outcomes(record.outcomes for record in found)}
    refused = [record.refused for record in found if record.refused is not None]
    look_alikes = [record.look_alikes for record in found if record.look_alikes is not None]
    if look_alikes:
        outcomes["look_alikes"] = _outcomes(look_alikes)
    if pairs:
        outcomes["help"] = _outcomes(mine.outcomes for mine, _ in pairs)
    return {
        "harmful_score": over_seeds([record.harmful for record in found]),
        "harmful_score_plus": over_seeds([record.harmful_or_broken for record in found]),
        "finetune_accuracy": over_seeds([record.correct for record in found]),
        "over_refusal": over_seeds(refused) if refused else None,
        "harmful_score_by_group": _by_group([(r.harmful, r.harmful_groups) for r in found]),
        "over_refusal_by_group": _by_group([(r.refused or [], r.look_alike_groups) for r in found]),
        "helpfulness": _helpfulness(pairs) if pairs else None,
        "outcomes": outcomes,
        "broken_harmful": broken_harmful(found),
        "release": {label: _released([record.release[label] for record in found]) for label in found[0].release},
    }


def _by_group(seeds: Sequence[tuple[Sequence[bool], Sequence[str] | None]]) -> dict[str, ScoreOverSeeds]:
    """Return the score of every group over seeds; empty where prompts have no group.

    Args:
        seeds: A yes or no for every answer, and the groups of the prompts, one pair per seed.
    """
    parts: dict[str, list[list[bool]]] = {}
    for found, groups in seeds:
        for group in dict.fromkeys(groups or ()):
            own = [yes for yes, its in zip(found, groups or (), strict=True) if its == group]
            parts.setdefault(group, []).append(own)
    return {group: over_seeds(of_seeds) for group, of_seeds in parts.items()}


def _released(found: Sequence[ReleaseRecord]) -> ReleaseResult:
    return ReleaseResult(
        harmful_score=over_seeds([record.harmful for record in found]),
        harmful_score_plus=over_seeds([record.harmful_or_broken for record in found]),
        broken_harmful=broken_harmful(found),
    )


def _helpfulness(pairs: Sequence[HelpPair]) -> Helpfulness:
    """Return the share over all seeds, with that of the aligned model."""
    together = over_seeds([mine.helped for mine, _ in pairs])
    aligned = over_seeds([other.helped for _, other in pairs])
    scores = [Score(score.value, score.low, score.high, score.n) for score in (together, aligned)]
    left = kept(*scores)
    return Helpfulness(
        **together.model_dump(),
        aligned=aligned.value,
        kept=None if left is None else left.value,
        kept_low=None if left is None else left.low,
        kept_high=None if left is None else left.high,
        loss=sum(mine.loss for mine, _ in pairs) / len(pairs),
        aligned_loss=sum(other.loss for _, other in pairs) / len(pairs),
    )


def _outcomes(seeds: Iterable[Sequence[Outcome]]) -> OutcomeShares:
    """Return the shares of the five classes among the answers of all seeds."""
    everything = [outcome for outcomes in seeds for outcome in outcomes]
    shares = {name: count / len(everything) for name, count in counts(everything).items()}
    return OutcomeShares(n=len(everything), **shares)


def folder_of(chain: Chain) -> str:
    """Return the folder of one variant at one seed, below the run's folder."""
    return f"variants/{chain.variant.name}/seed-{chain.seed}"
