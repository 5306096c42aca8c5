"""What a comparison is: a recipe whose variants are the pipelines, and the axes it is repeated over."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from mithridate.compare.results import AXES, Setting
from mithridate.errors import RecipeError, UsageError
from mithridate.pipeline.reading import make_recipe, override, read_tree
from mithridate.pipeline.recipe import Part, Recipe, Variant
from mithridate.validation import sentence

EXAMPLE = "recipes/compare/axes.yaml"


class Axes(Part):
    """The values of each axis; an axis is varied alone, the others stay at the recipe's value.

    Attributes:
        ratio: p, share of harmful rows in the upload.
        learning_rate: Of fine-tuning.
        epochs: Of fine-tuning.
        size: n, rows of the upload.
    """

    ratio: list[float] = Field(default_factory=list)
    learning_rate: list[float] = Field(default_factory=list)
    epochs: list[float] = Field(default_factory=list)
    size: list[int] = Field(default_factory=list)

    @model_validator(mode="after")
    def _once(self) -> Self:
        for axis, values in self.values().items():
            if len(set(values)) < len(values):
                raise ValueError(f"axes.{axis} holds the same value twice")
        return self

    def values(self) -> dict[str, list[float]]:
        """The axes that are varied, their values in rising order."""
        named: dict[str, list[float]] = {axis: sorted(getattr(self, axis)) for axis in AXES}
        return {axis: values for axis, values in named.items() if values}


class Spec(Part):
    """The whole comparison.

    Attributes:
        name: Title of the page.
        recipe: The recipe; in a file also its path.
        variants: Pipelines beside the recipe's own.
        pipelines: Names of the variants that are compared; all by default.
        axes: What is varied.
        seeds: Seeds of the attack; the recipe's by default.
    """

    name: str
    recipe: Recipe
    variants: list[Variant] = Field(default_factory=list)
    pipelines: list[str] | None = Field(None, min_length=1)
    axes: Axes = Axes()
    seeds: list[int] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        names = [variant.name for variant in (*self.recipe.variants, *self.variants)]
        unknown = [name for name in self.pipelines or [] if name not in names]
        if unknown:
            raise ValueError(f"pipelines: there is no variant '{unknown[0]}'; known: {', '.join(names)}")
        return self

    def base(self) -> Recipe:
        """The recipe with exactly the chosen pipelines and seeds.

        Raises:
            RecipeError: If they do not fit together.
        """
        variants = [*self.recipe.variants, *self.variants]
        chosen = [v for v in variants if self.pipelines is None or v.name in self.pipelines]
        kept = self.recipe.reference if self.recipe.reference in [v.name for v in chosen] else None
        changes = {
            "variants": [variant.model_dump() for variant in chosen],
            "seeds": self.seeds or self.recipe.seeds,
            "reference": kept,
        }
        return make_recipe(self.recipe.model_dump() | changes)


class Loaded(NamedTuple):
    """A checked comparison, and the folder that the recipe's relative paths are looked up in."""

    spec: Spec
    folder: Path


def read_spec(path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read a comparison from YAML; overrides also reach into the recipe it refers to.

    Raises:
        RecipeError: Naming the key at fault, and the nearest valid name where a key is unknown.
    """
    path = Path(path)
    tree, folder = read_tree(path, example=EXAMPLE), path.parent
    if isinstance(tree.get("recipe"), str):
        referred = folder / tree["recipe"]
        tree["recipe"], folder = read_tree(referred), referred.parent
    for text in overrides:
        override(tree, text)
    return Loaded(make_spec(tree), folder)


def make_spec(tree: dict[str, Any]) -> Spec:
    """Check a tree of settings, every cell's recipe included.

    Raises:
        RecipeError: Naming the key at fault, and the nearest valid name where a key is unknown.
    """
    try:
        spec = Spec.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(sentence(error, Spec)) from error
    except UsageError as error:
        raise RecipeError(str(error)) from error
    recipes(spec)
    return spec


def recipes(spec: Spec) -> dict[Setting, Recipe]:
    """The recipe of every setting, the recipe's own setting first.

    A variant with a harmful ratio of its own stays out of the other settings: its attack is not that of the axis.

    Raises:
        RecipeError: If a value of an axis cannot be used.
    """
    base = spec.base()
    found = {setting_of(base): base}
    for axis, values in spec.axes.values().items():
        for value in values:
            recipe = _moved(base, axis, value)
            found.setdefault(setting_of(recipe), recipe)
    return found


def setting_of(recipe: Recipe) -> Setting:
    """Where a recipe lies on the axes."""
    user, tuning = recipe.streams.user, recipe.finetuning
    return Setting(ratio=user.ratio, learning_rate=tuning.learning_rate, epochs=tuning.epochs, size=user.size)


def _moved(base: Recipe, axis: str, value: float) -> Recipe:
    tree = base.model_dump()
    tree["variants"] = [variant for variant in tree["variants"] if variant["ratio"] is None]
    if not tree["variants"]:
        raise RecipeError(f"axes.{axis}: every pipeline has a harmful ratio of its own, so there is nothing to vary")
    if tree["reference"] not in [variant["name"] for variant in tree["variants"]]:
        tree["reference"] = None
    place = tree["streams"]["user"] if axis in ("ratio", "size") else tree["finetuning"]
    place[axis] = value
    try:
        return make_recipe(tree)
    except RecipeError as error:
        raise RecipeError(f"axes.{axis} = {value:g}: {error}") from error
