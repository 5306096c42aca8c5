"""Which part a pipeline plays in the claims, read off its methods, never off its name."""

from enum import StrEnum

from mithridate.compare.results import Pipeline
from mithridate.pipeline.recipe import Variant
from mithridate.report.roles import PLAIN


class Role(StrEnum):
    """The stages at which a pipeline is defended."""

    UNDEFENDED = "undefended"
    ALIGNMENT = "alignment"
    FINETUNING = "fine-tuning"
    POSTTUNING = "post-tuning"
    SEVERAL = "several stages"
    APART = "attack of its own"


def pipeline_of(variant: Variant) -> Pipeline:
    """A variant as a pipeline of the comparison."""
    alignment, finetuning = variant.alignment.method, variant.finetuning.method
    posttuning = [choice.method for choice in variant.posttuning]
    return Pipeline(
        name=variant.name,
        alignment=alignment,
        finetuning=finetuning,
        posttuning=posttuning,
        ratio=variant.ratio,
        role=_role(alignment, finetuning, posttuning, variant.ratio),
    )


def _role(alignment: str, finetuning: str, posttuning: list[str], ratio: float | None) -> Role:
    if ratio is not None:
        return Role.APART
    defended = [
        stage
        for stage, methods in (
            (Role.ALIGNMENT, [alignment]),
            (Role.FINETUNING, [finetuning]),
            (Role.POSTTUNING, posttuning),
        )
        if any(method not in PLAIN for method in methods)
    ]
    return Role.UNDEFENDED if not defended else defended[0] if len(defended) == 1 else Role.SEVERAL


def of_role(pipelines: list[Pipeline], role: Role) -> list[Pipeline]:
    """The pipelines that play a role."""
    return [pipeline for pipeline in pipelines if pipeline.role == role]


def only_repair(pipelines: list[Pipeline], method: str) -> list[Pipeline]:
    """The pipelines whose one and only defense is this post-tuning method."""
    return [p for p in of_role(pipelines, Role.POSTTUNING) if p.posttuning == [method]]
