"""A folder with a model's settings and tokenizer but no weights, rows in files, and a recipe over them."""

from typing import Any

import pytest

from mithridate.planning import planned_stages
from tests.helpers.tiny_world import make_tree, make_world

_WORK: dict[Any, Any] = {}


@pytest.fixture(autouse=True)
def work_is_counted_once(monkeypatch):
    """For each architecture and adapter, in all plans together: it takes longer than the rest of a plan."""
    plain = planned_stages.pass_work

    def counted(config, dtype, lora, quantize="none"):
        key = config.to_json_string(use_diff=False), dtype, repr(lora), quantize
        if key not in _WORK:
            _WORK[key] = plain(config, dtype, lora, quantize)
        return _WORK[key]

    monkeypatch.setattr(planned_stages, "pass_work", counted)


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
