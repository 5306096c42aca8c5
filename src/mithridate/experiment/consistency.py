"""What a recipe's settings must be to each other: none without effect, none that contradicts another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mithridate.repair.post_tuning import Repair

if TYPE_CHECKING:
    from mithridate.experiment.recipe import Recipe, Variant

SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
)
"""transformers' schedulers that need no settings beside the learning rate and the warm-up."""


def check_variant(recipe: Recipe, variant: Variant) -> None:
    """Check one variant against the whole recipe.

    Raises:
        ValueError: A setting of the variant has no effect, or its defenses do not fit each other or the adapter.
        UsageError: A defense is unknown or does not act at its stage, or a setting of it is wrong.
    """
    for stage in ("alignment", "finetuning"):
        choice = getattr(variant, stage)
        if choice.method != "none":
            choice.build(stage)
        elif choice.model_extra:
            first = min(choice.model_extra)
            raise ValueError(f"variant '{variant.name}': {stage} is 'none', so that '{first}' has no effect; remove it")
    if variant.finetuning.method == "none" and variant.ratio is not None:
        raise ValueError(f"variant '{variant.name}': finetuning is 'none', so that 'ratio' has no effect; remove it")
    _check_ratio(recipe, variant)
    _check_repairs(recipe, variant)


def _check_ratio(recipe: Recipe, variant: Variant) -> None:
    """A poisoned run must have a harmful row."""
    size = recipe.streams.user.size
    ratio = recipe.streams.user.ratio if variant.ratio is None else variant.ratio
    if ratio and round(ratio * size) == 0:
        raise ValueError(
            f"variant '{variant.name}': a ratio of {ratio:g} of {size} rows is less than one harmful row; "
            "raise streams.user.size or the ratio, or set the ratio to 0"
        )


def _check_repairs(recipe: Recipe, variant: Variant) -> None:
    merged = None
    for choice in variant.posttuning:
        repair = choice.build("posttuning")
        assert isinstance(repair, Repair)
        if recipe.adapter == "none" and repair.needs_adapter:
            raise ValueError(
                f"variant '{variant.name}': {choice.method} acts on a LoRA adapter, but adapter is 'none'; "
                "set its scope to 'weights', or train with an adapter"
            )
        if merged is not None and repair.needs_adapter:
            raise ValueError(
                f"variant '{variant.name}': {choice.method} acts on a LoRA adapter, which {merged} before it "
                f"merges; put {choice.method} first"
            )
        merged = choice.method if repair.merges else merged
        if variant.alignment.method == "none" and {"base", "aligned"} <= set(repair.info.references):
            raise ValueError(
                f"variant '{variant.name}': {choice.method} needs what alignment changed, but alignment is "
                "'none'; name a defense for it, or start from the model before alignment"
            )
        dose = type(repair).dose
        if dose and getattr(repair, dose) == "auto" and not recipe.streams.user.held_out:
            raise ValueError(
                f"variant '{variant.name}': {choice.method} with strength 'auto' needs held-out rows; "
                "set streams.user.held_out"
            )
