"""From the store to cells, and from cells to figures over seeds."""

import json
from collections.abc import Sequence
from typing import Any

from mithridate.compare.grid import Place
from mithridate.compare.kept import losses
from mithridate.compare.results import Cell, Interval, Measure, Pipeline, Point, Pooled, Setting, Share
from mithridate.compare.roles import Role
from mithridate.compare.statistics import t_interval
from mithridate.evaluation.intervals import Score, pooled
from mithridate.pipeline.helped import helpfulness
from mithridate.pipeline.plan import Chain
from mithridate.pipeline.stages import ROW_WEIGHTS
from mithridate.pipeline.store import Store
from mithridate.report.results import RowWeights
from mithridate.report.weighing import separation


def measured(store: Store, place: Place) -> Cell:
    """One cell, from the records of its stages."""
    chain, last = place.chain, place.chain.nodes[-1]
    found = store.result(last.stage, last.key)
    assert found is not None
    return Cell(
        pipeline=chain.variant.name,
        setting=place.setting,
        seed=chain.seed,
        harmful_score=_share(found["harmful"]),
        finetune_accuracy=_share(found["correct"]),
        over_refusal=None if found["refused"] is None else _share(found["refused"]),
        helpfulness=_helped(store, chain, found),
        row_weight_auc=_row_weight_auc(store, chain),
        distance=_distance(store, chain),
        evaluation=last.key,
    )


def _helped(store: Store, chain: Chain, record: dict[str, Any]) -> Share | None:
    if chain.aligned is None:
        return None
    aligned = store.result(chain.aligned.stage, chain.aligned.key)
    assert aligned is not None
    found = helpfulness(record, aligned)
    return None if found is None else _share(found.helped)


def _share(outcomes: list[bool]) -> Share:
    score = Score.of(sum(outcomes), len(outcomes))
    return Share(count=sum(outcomes), n=score.n, value=score.value, low=score.low, high=score.high)


def _row_weight_auc(store: Store, chain: Chain) -> float | None:
    """Mann-Whitney U/(n·m) of the rows' mean weights, benign against harmful; training never saw the labels."""
    for node in chain.nodes:
        path = store.path(node.stage, node.key) / ROW_WEIGHTS
        if node.stage == "finetuning" and path.is_file():
            rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            drawn = [row for row in rows if row["weight"] is not None]
            found = separation(RowWeights.model_validate({"seed": chain.seed, "rows": drawn}))
            return None if found is None else found.auroc
    return None


def _distance(store: Store, chain: Chain) -> float | None:
    repairs = [node for node in chain.nodes if node.stage == "posttuning"]
    if len(repairs) != 1:
        return None
    record = store.result("posttuning", repairs[0].key)
    return None if record is None else float(record["distance"])


def points(cells: Sequence[Cell]) -> list[Point]:
    """The cells of the same pipeline and setting together, in order of appearance."""
    groups: dict[tuple[str, Setting], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.pipeline, cell.setting), []).append(cell)
    return [
        Point(
            pipeline=pipeline,
            setting=setting,
            harmful_score=measure([cell.harmful_score for cell in group]),
            finetune_accuracy=measure([cell.finetune_accuracy for cell in group]),
            over_refusal=_optional([cell.over_refusal for cell in group]),
            helpfulness=_optional([cell.helpfulness for cell in group]),
        )
        for (pipeline, setting), group in groups.items()
    ]


def measure(shares: Sequence[Share]) -> Measure:
    """A share over seeds: mean with t interval, and all answers pooled."""
    values = [share.value for share in shares]
    together = pooled([Score(share.value, share.low, share.high, share.n) for share in shares])
    over_seeds = None
    if len(values) > 1:
        low, high = t_interval(values)[1:]
        over_seeds = Interval(low=max(0.0, low), high=min(1.0, high))  # a share lies in 0..1
    return Measure(
        seeds=values,
        seed_mean=sum(values) / len(values),
        seed_t95=over_seeds,
        pooled_wilson95=Pooled(value=together.value, low=together.low, high=together.high, n=together.n),
    )


def _optional(shares: Sequence[Share | None]) -> Measure | None:
    known = [share for share in shares if share is not None]
    return measure(known) if known else None


def front(pipelines: Sequence[Pipeline], at_base: Sequence[Point]) -> list[str]:
    """Pipelines that no other beats: none has a harmful score as low and an accuracy as high, and one of them better.

    Compared are means over seeds, so that neighbors on the front may be within each other's error. A pipeline with an
    attack of its own is not compared, and neither is one that lost answers to harmless prompts: refusing everybody
    would be on every front.
    """
    attacked = {pipeline.name for pipeline in pipelines if pipeline.role != Role.APART} - set(
        losses(pipelines, at_base)
    )
    places = {p.pipeline: (-p.harmful_score.seed_mean, p.finetune_accuracy.seed_mean) for p in at_base}
    rivals = {name: place for name, place in places.items() if name in attacked}
    return [name for name, place in rivals.items() if not any(_beats(other, place) for other in rivals.values())]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
