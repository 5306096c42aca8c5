"""Checks a recipe's settings against each other: none may be without effect, none may contradict another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mithridate.attacks.release_attack import ReleaseAttack
from mithridate.repair.post_tuning import Repair

# For annotations only: the recipe calls this module, so importing it here would close a circle.
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
"""transformers' schedulers that need no ``lr_scheduler_kwargs``, which a recipe has no key for."""


def check_variant(recipe: Recipe, variant: Variant) -> None:
    """Check one variant against the whole recipe.

    Raises:
        ValueError: A setting of the variant has no effect, or its defenses do not fit each other or the adapter.
        UsageError: A defense is unknown or does not act at its stage, or a setting of it is wrong.
    """
    for stage in ("alignment", "finetuning"):
        choice = getattr(variant, stage)
        if choice.method != "none":
            # Built only for its checks: a wrong setting is to be found now, not after hours of earlier stages.
            choice.build(stage)
        elif choice.model_extra:
            first = min(choice.model_extra)
            raise ValueError(f"variant '{variant.name}': {stage} is 'none', so '{first}' has no effect; remove it")
    if variant.alignment.method == "none" and variant.alignment_epochs is not None:
        raise ValueError(
            f"variant '{variant.name}': alignment is 'none', so 'alignment_epochs' has no effect; remove it"
        )
    if variant.finetuning.method == "none" and variant.ratio is not None:
        raise ValueError(f"variant '{variant.name}': finetuning is 'none', so 'ratio' has no effect; remove it")
    _check_ratio(recipe, variant)
    _check_repairs(recipe, variant)


def check_quantized(recipe: Recipe) -> None:
    """Check that nothing needs the weights of a quantized base one by one.

    Raises:
        ValueError: If all weights are to be trained, or an attack rewrites them.
    """
    if recipe.quantize == "none":
        return
    if recipe.adapter == "none":
        raise ValueError(
            f"quantize '{recipe.quantize}' holds weights that cannot be trained; set adapter to another than 'none'"
        )
    for chosen in recipe.evaluation.release_attacks:
        attack = chosen.build()
        if isinstance(attack, ReleaseAttack) and attack.rewrites:
            raise ValueError(
                f"evaluation.release_attacks: '{chosen.method}' rewrites whole weights, which a base with quantize "
                f"'{recipe.quantize}' does not have; remove it, or set quantize to none"
            )


def check_engine(recipe: Recipe) -> None:
    """Check that vLLM can give every answer that is to be measured.

    Raises:
        ValueError: If the base is quantized, or a model is attacked in memory, which vLLM does not share.
    """
    if recipe.evaluation.engine != "vllm":
        return
    if recipe.quantize != "none":
        raise ValueError(
            f"evaluation.engine 'vllm' serves whole weights, which quantize '{recipe.quantize}' does not have; set "
            "engine to transformers, or quantize to none"
        )
    released = {"evaluation.release_attacks": recipe.evaluation.release_attacks}
    if recipe.redteam is not None:
        released["redteam.release"] = [one for one in recipe.redteam.release or [] if one is not None]
    for key, attacks in released.items():
        if attacks:
            raise ValueError(
                f"{key}: '{attacks[0].method}' attacks a model in memory, which vLLM does not answer for; set "
                "evaluation.engine to transformers, or remove the attack"
            )


def _check_ratio(recipe: Recipe, variant: Variant) -> None:
    """Refuse a ratio above 0 that rounds to no harmful row."""
    size = recipe.streams.user.size
    ratio = recipe.streams.user.ratio if variant.ratio is None else variant.ratio
    # Rounded as `mix` rounds. Such a run would be reported as attacked without having been.
    if ratio and round(ratio * size) == 0:
        raise ValueError(
            f"variant '{variant.name}': a ratio of {ratio:g} of {size} rows is less than one harmful row; "
            "raise streams.user.size or the ratio, or set the ratio to 0"
        )


def _check_repairs(recipe: Recipe, variant: Variant) -> None:
    merged = None
    for choice in variant.posttuning:
        repair = choice.build("posttuning")
        assert isinstance(repair, Repair)  # the registry gives nothing else at this stage; for type checkers
        if recipe.adapter == "none" and repair.needs_adapter:
            raise ValueError(
                f"variant '{variant.name}': {choice.method} acts on a LoRA adapter, but adapter is 'none'; "
                "set its scope to 'weights', or train with an adapter"
            )
        if recipe.quantize != "none" and repair.merges:
            raise ValueError(
                f"variant '{variant.name}': {choice.method} rewrites whole weights, which a base with quantize "
                f"'{recipe.quantize}' does not have; use a repair of the adapter, or set quantize to none"
            )
        if merged is not None and repair.needs_adapter:
            raise ValueError(
                f"variant '{variant.name}': {choice.method} acts on a LoRA adapter, which {merged} before it "
                f"merges; put {choice.method} first"
            )
        # Merging cannot be undone: from here on, no later repair finds an adapter.
        merged = choice.method if repair.merges else merged
        # Without alignment both are the same model, and the direction between them is zero.
        if variant.alignment.method == "none" and {"base", "aligned"} <= set(repair.info.references):
            raise ValueError(
                f"variant '{variant.name}': {choice.method} needs what alignment changed, but alignment is "
                "'none'; name a defense for it, or start from the model before alignment"
            )
        # The budget is a rise of the loss on user rows, which rows the model was trained on would misstate.
        if repair.searches and not recipe.streams.user.held_out:
            raise ValueError(
                f"variant '{variant.name}': {choice.method} with strength 'auto' needs held-out rows; "
                "set streams.user.held_out"
            )
