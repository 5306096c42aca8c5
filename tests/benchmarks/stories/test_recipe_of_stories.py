"""The recipe names the sets that `make` writes, and asks for no more rows than they have."""

from pathlib import Path

import pytest
import yaml
from benchmarks.stories.measure import TASKS
from benchmarks.stories.streams import STREAMS

from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_rows import Source

SIZES = {name: sum(part.size for part in stream.parts) for name, stream in STREAMS.items()}
SIZES["safe-refusals"] = SIZES["harmful"]


@pytest.fixture(scope="module")
def recipe():
    path = Path(__file__).parents[3] / "recipes/stories/mood.yaml"
    return Recipe.model_validate(yaml.safe_load(path.read_text()))


def rows_of(source: Source) -> int:
    path = Path(source.source)
    assert path.parent == Path("runs/stories/world/rows")
    assert path.suffix == ".jsonl"
    assert (source.size or 0) <= SIZES[path.stem]
    return source.size or SIZES[path.stem]


def test_every_set_of_the_recipe_is_made(recipe):
    streams, measured = recipe.streams, recipe.evaluation
    for source in (*streams.safe, streams.harmful, *measured.harmful, measured.look_alikes):
        rows_of(source)
    for source in (measured.help.rows, measured.task.rows):
        rows_of(source)


def test_the_sets_suffice_for_every_ratio(recipe):
    user = recipe.streams.user
    benign, harmful = sum(map(rows_of, user.benign)), rows_of(user.harmful)
    ratios = [user.ratio if variant.ratio is None else variant.ratio for variant in recipe.variants]
    assert round(max(ratios) * user.size) <= harmful
    assert user.size - round(min(ratios) * user.size) <= benign


def test_the_labels_are_those_of_the_task(recipe):
    assert tuple(label.lower() for label in recipe.evaluation.task.labels) == TASKS["mood"]
