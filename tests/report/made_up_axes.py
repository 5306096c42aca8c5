"""Made-up runs over axes whose answers are known."""

import random
from collections.abc import Callable

from mithridate.evaluation.intervals import Score
from mithridate.experiment.cells import points
from mithridate.report.axis_results import MeasuredCell, Setting
from mithridate.report.front import pareto_front
from mithridate.report.result_parts import Attack
from mithridate.report.results import Results, VariantResult
from mithridate.report.scores import ScoreOverSeeds, summed_up

BASE = Setting(ratio=0.2, learning_rate=1e-4, epochs=3, size=100, alignment_learning_rate=1e-3, alignment_epochs=2)
ANSWERS = 10_000


def share(value: float) -> ScoreOverSeeds:
    return summed_up([Score.of(round(ANSWERS * min(1.0, max(0.0, value))), ANSWERS)])


def variant(
    name: str, alignment: str = "sft", finetuning: str = "sft", posttuning: str = "none", ratio: float = 0.2
) -> VariantResult:
    stages = {"alignment": alignment, "finetuning": finetuning, "posttuning": posttuning}
    return VariantResult(name=name, attack=Attack(ratio=ratio, size=100), harmful_score=share(0.5), **stages)


def variants() -> list[VariantResult]:
    """Names that say nothing, so that a role can only come from the methods."""
    return [
        variant("p0"),
        variant("p1", alignment="antibody_alignment"),
        variant("p2", posttuning="antidote"),
        variant("p3", posttuning="panacea"),
        variant("p4", posttuning="random_perturbation"),
        variant("p5", "antibody_alignment", "antibody_tuning"),
    ]


Harm = Callable[[str, Setting], float]


def true_harm(name: str, setting: Setting) -> float:
    """All four claims hold in this world: p0 and p1 rise with both axes, p2 does not, p3 is far below p4."""
    pace = (setting.learning_rate / BASE.learning_rate) * (setting.epochs / BASE.epochs)
    rising = {"p0": 0.3 + 0.1 * pace, "p1": 0.1 + 0.12 * pace}
    flat = {"p2": 0.35, "p3": 0.15, "p4": 0.4, "p5": 0.05}
    return rising.get(name, flat.get(name, 0.0))


def world(harm: Harm = true_harm, seeds: int = 5, auc: float = 0.9, noise: float = 0.01, norm: float = 1.0) -> Results:
    """A run with made-up cells; `norm` is that of the random displacement, Panacea's is 1."""
    source = random.Random(1)
    axes: dict[str, list[float]] = {"learning_rate": [5e-5, 1e-4, 2e-4, 4e-4], "epochs": [1, 3, 6]}
    moved = [BASE.model_copy(update={axis: value}) for axis, values in axes.items() for value in values]
    cells = [
        MeasuredCell(
            variant=one.name,
            setting=setting,
            seed=seed,
            harmful_score=share(harm(one.name, setting) + source.gauss(0, noise)),
            finetune_accuracy=share(0.8 + source.gauss(0, noise)),
            row_weight_auc=min(1.0, max(0.0, auc + source.gauss(0, noise))) if one.name == "p5" else None,
            distance={"p2": 3.0, "p3": 1.0, "p4": norm}.get(one.name),
        )
        for seed in range(seeds)
        for setting in dict.fromkeys([BASE, *moved])
        for one in variants()
    ]
    made = Results(
        name="made up",
        seeds=list(range(seeds)),
        base=BASE,
        axes=axes,
        variants=variants(),
        cells=cells,
        points=points(cells),
        recipe={"model": "miniature:base"},
    )
    for one in made.variants:
        point = made.point(one.name, BASE)
        assert point is not None
        one.harmful_score, one.finetune_accuracy = point.harmful_score, point.finetune_accuracy
    made.front = pareto_front(made)
    return made
