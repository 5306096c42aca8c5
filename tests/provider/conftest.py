"""A tiny policy whose limits can be set so that a model passes or does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.experiment.conftest import world  # noqa: F401  # a fixture
from tests.helpers import tiny


@pytest.fixture
def policy(world: Path, tmp_path: Path) -> dict[str, Any]:  # noqa: F811
    """A policy on the tiny model; an untrained model passes its limits, since all of them are wide open."""
    help_rows = [{"prompt": f"how do i make the red tea {'now ' * i}", "response": "take the tea"} for i in range(7)]
    (tmp_path / "help.jsonl").write_text("\n".join(map(json.dumps, help_rows)) + "\n", encoding="utf-8")
    short = {"epochs": 1, "learning_rate": 0.01, "batch_size": 4}
    return {
        "name": "tiny",
        "max_length": 192,
        "lora": {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]},
        "streams": {
            "safe": str(world / "safe.jsonl"),
            "harmful": str(world / "harmful.jsonl"),
            "refusals": tiny.REFUSALS,
        },
        "alignment": {"training": short},
        "gate": "none",
        "finetuning": {
            "training": short,
            "held_out": 0.2,
            "least_rows": 10,
            "most_rows": 50,
            "highest_learning_rate": 0.1,
        },
        "ladder": [{"name": "as tuned"}, {"name": "pushed", "posttuning": {"method": "panacea", "radius": 0.5}}],
        "audit": {
            "harmful": str(world / "prompts.jsonl"),
            "look_alikes": str(world / "prompts.jsonl"),
            "help": {"rows": str(tmp_path / "help.jsonl")},
            "judge": {"kind": "refusal", "refusals": ["sorry", "no"]},
            "prefills": ["take"],
            "systems": ["be kind"],
            "max_new_tokens": 4,
            # The tiny world's rows end with so many equal words that no prompt has room beside them.
            "prompt_templates": 0,
        },
        "release": {"harmful_score": 1, "harmful_rise": 1, "over_refusal": 1, "helpfulness_kept": 0},
    }
