"""A folder with a model's settings and tokenizer but no weights, rows in files, and a recipe over them."""

import pytest

from tests.helpers.tiny_world import make_tree, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("planned"), weights=False)


@pytest.fixture
def tree(world):
    made = make_tree(world)
    asked = made["evaluation"]
    asked.pop("look_alikes")
    asked["task"]["rows"] = str(world / "user.jsonl")
    return made | {
        "adapter": "none",
        "alignment": {"epochs": 2, "batch_size": 4},
        "finetuning": {"epochs": 3, "batch_size": 4},
        "evaluation": asked | {"batch_size": 4},
        "variants": [
            {"name": "undefended"},
            {"name": "flat", "alignment": "booster"},
            {"name": "kept", "alignment": {"method": "booster", "every": 4}},
            {"name": "pushed", "posttuning": {"method": "panacea", "radius": 1.0}},
            {"name": "found", "posttuning": {"method": "panacea", "strength": "auto"}},
        ],
    }
