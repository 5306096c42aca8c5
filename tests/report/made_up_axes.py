"""The shipped tiny comparison, run once, and made-up cells whose answers are known."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from mithridate.compare import compare
from mithridate.compare.measure import front, points
from mithridate.compare.results import AXES, Cell, Comparison, Pipeline, Run, Setting, Share
from mithridate.compare.roles import pipeline_of

from mithridate.evaluation.intervals import Score
from mithridate.experiment.recipe import Choice, Variant

TINY = Path(__file__).parents[2] / "recipes/compare/tiny.yaml"
BASE = Setting(ratio=0.2, learning_rate=1e-4, epochs=3, size=100)
ANSWERS = 10_000


class Ran:
    """A finished comparison and its folder."""

    def __init__(self, comparison: Comparison, folder: Path) -> None:
        self.comparison, self.folder = comparison, folder


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("compare") / "out"
    return Ran(compare(TINY, folder), folder)


def share(value: float) -> Share:
    score = Score.of(round(ANSWERS * min(1.0, max(0.0, value))), ANSWERS)
    return Share(count=round(score.value * ANSWERS), n=ANSWERS, value=score.value, low=score.low, high=score.high)


def pipeline(name: str, alignment: str = "sft", finetuning: str = "sft", posttuning: str | None = None) -> Pipeline:
    repairs = [Choice(method=posttuning)] if posttuning else []
    stages = {"alignment": Choice(method=alignment), "finetuning": Choice(method=finetuning)}
    return pipeline_of(Variant(name=name, posttuning=repairs, **stages))


# Names that say nothing, so that a role can only come from the methods.
PIPELINES = [
    pipeline("p0"),
    pipeline("p1", alignment="antibody_alignment"),
    pipeline("p2", posttuning="antidote"),
    pipeline("p3", posttuning="panacea"),
    pipeline("p4", posttuning="random_perturbation"),
    pipeline("p5", "antibody_alignment", "antibody_tuning"),
]

Harm = Callable[[str, Setting], float]


def true_harm(name: str, setting: Setting) -> float:
    """All four claims hold in this world: p0 and p1 rise with both axes, p2 does not, p3 is far below p4."""
    pace = (setting.learning_rate / BASE.learning_rate) * (setting.epochs / BASE.epochs)
    rising = {"p0": 0.3 + 0.1 * pace, "p1": 0.1 + 0.12 * pace}
    flat = {"p2": 0.35, "p3": 0.15, "p4": 0.4, "p5": 0.05}
    return rising.get(name, flat.get(name, 0.0))


def world(
    harm: Harm = true_harm, seeds: int = 5, auc: float = 0.9, noise: float = 0.01, norm: float = 1.0
) -> Comparison:
    """A comparison with made-up cells; `norm` is that of the random displacement, Panacea's is 1."""
    source = random.Random(1)
    axes: dict[str, list[float]] = {"learning_rate": [5e-5, 1e-4, 2e-4, 4e-4], "epochs": [1, 3, 6]}
    moved = [BASE.model_copy(update={axis: value}) for axis, values in axes.items() for value in values]
    cells = [
        Cell(
            pipeline=one.name,
            setting=setting,
            seed=seed,
            harmful_score=share(harm(one.name, setting) + source.gauss(0, noise)),
            finetune_accuracy=share(0.8 + source.gauss(0, noise)),
            row_weight_auc=auc + source.gauss(0, noise) if one.name == "p5" else None,
            distance={"p2": 3.0, "p3": 1.0, "p4": norm}.get(one.name),
        )
        for seed in range(seeds)
        for setting in dict.fromkeys([BASE, *moved])
        for one in PIPELINES
    ]
    run = Run(created="2026-01-01", command="mithridate compare", seconds=1.0, made=1, store_bytes=1)
    pooled = points(cells)
    return Comparison(
        name="made up",
        seeds=list(range(seeds)),
        base=BASE,
        axes={axis: axes[axis] for axis in AXES if axis in axes},
        pipelines=PIPELINES,
        cells=cells,
        points=pooled,
        front=front(PIPELINES, [point for point in pooled if point.setting == BASE]),
        claims=[],
        stages=1,
        recipe={"model": "miniature:base"},
        hashes={},
        versions={},
        run=run,
    )
