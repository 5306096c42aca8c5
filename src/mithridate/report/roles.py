"""Which variant plays which part, read off its methods and its attack, never off its name."""

from enum import StrEnum

from mithridate.report.results import Results, VariantResult

PLAIN = frozenset({"none", "sft", ""})
STAGES = ("alignment", "finetuning", "posttuning")


class Role(StrEnum):
    """The part a variant plays in the comparison."""

    UNDEFENDED = "undefended"
    CLEAN = "clean"
    DEFENDED = "defended"


def methods(variant: VariantResult) -> list[str]:
    """Return the defenses of all three stages, in order; plain fine-tuning is none."""
    return [name for stage in STAGES for name in methods_at(variant, stage)]


def methods_at(variant: VariantResult, stage: str) -> list[str]:
    """Return the defenses of one stage, in order; plain fine-tuning is none."""
    # Stacked defenses are written as one name, `panacea + antidote`.
    names = [name.strip() for name in getattr(variant, stage).split("+")]
    return [name for name in names if name.lower() not in PLAIN]


def defended_at(variant: VariantResult) -> list[str]:
    """Return the stages at which a defense acts."""
    return [stage for stage in STAGES if methods_at(variant, stage)]


def role(results: Results, variant: VariantResult) -> Role:
    """Return the variant's part.

    A variant without an attack is clean where any other variant has one. Where no variant says anything about its
    attack, all are taken as attacked.
    """
    # Without any attack in the file, calling every variant clean would leave nothing to report.
    known = any(other.attack is not None for other in results.variants)
    attack = variant.attack
    if known and (attack is None or attack.ratio == 0):
        return Role.CLEAN
    return Role.DEFENDED if methods(variant) else Role.UNDEFENDED


def undefended(results: Results) -> VariantResult | None:
    """Return the attacked variant without a defense: the one the others are tested against, or the first."""
    candidates = [v for v in results.variants if role(results, v) is Role.UNDEFENDED]
    # The reference of the paired tests first, so that prose and p-values speak of the same model.
    named = {v.versus_reference.reference for v in results.variants if v.versus_reference}
    return next((v for v in candidates if v.name in named), next(iter(candidates), None))


def clean_reference(results: Results) -> VariantResult | None:
    """Return the variant with neither attack nor defense."""
    return next((v for v in results.variants if role(results, v) is Role.CLEAN and not methods(v)), None)


def defended(results: Results) -> list[VariantResult]:
    """Return the attacked variants with a defense."""
    return [v for v in results.variants if role(results, v) is Role.DEFENDED]


def comparable(results: Results) -> list[VariantResult]:
    """Return the variants under the attack of the recipe; one with a harmful ratio of its own is not comparable."""
    base = results.base
    # An attack without a ratio is taken to be the recipe's.
    return [v for v in results.variants if base is None or v.attack is None or v.attack.ratio in (None, base.ratio)]


def only_defended_at(results: Results, stage: str) -> list[VariantResult]:
    """Return the comparable variants that are defended at this stage alone; at none where it is empty."""
    wanted = [stage] if stage else []
    return [v for v in comparable(results) if defended_at(v) == wanted]
