"""Which rows of a recipe are searched, and which of them is the control."""

from typing import NamedTuple

from mithridate.errors import RecipeError
from mithridate.experiment.recipe import Recipe, Variant


class SearchedRows(NamedTuple):
    """The rows of a recipe.

    Attributes:
        control: The undefended row, whose accuracy at the recipe's setting bounds the loss of every trial.
        searched: The rows that are searched, the control among them, in the recipe's order.
        left_out: Why each other row is not searched, by its name.
    """

    control: Variant
    searched: list[Variant]
    left_out: dict[str, str]


def searched_rows(recipe: Recipe) -> SearchedRows:
    """Return the rows of a recipe that can be searched.

    Raises:
        RecipeError: If there is no undefended row, or it cannot be searched.
    """
    reasons = {variant.name: reason for variant in recipe.variants if (reason := _unsearchable(recipe, variant))}
    searched = [variant for variant in recipe.variants if variant.name not in reasons]
    plain = [variant for variant in searched if _undefended(variant)]
    # The recipe's reference first, where it is one of several undefended rows.
    plain.sort(key=lambda variant: variant.name != recipe.reference)
    if not plain:
        raise RecipeError(
            "a search needs an undefended row as its control; add a variant such as {name: undefended} that is attacked"
        )
    return SearchedRows(plain[0], searched, reasons)


def _undefended(variant: Variant) -> bool:
    methods = {variant.alignment.method, variant.finetuning.method}
    return methods <= {"sft", "none"} and not variant.posttuning


def _unsearchable(recipe: Recipe, variant: Variant) -> str | None:
    ratio = recipe.streams.user.ratio if variant.ratio is None else variant.ratio
    if variant.finetuning.method == "none":
        return "it skips fine-tuning, so that no training setting reaches it"
    if not round(ratio * recipe.streams.user.size):
        return "its upload holds no row of the attacker"
    if ratio != recipe.streams.user.ratio:
        return "its ratio of harmful rows is not the recipe's, so that it would meet another attack than the others"
    return None
