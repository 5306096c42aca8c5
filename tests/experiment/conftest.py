"""A tiny model on disk, rows in files, and a recipe that runs in seconds."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mithridate as mi
from mithridate.report.results import Results
from tests.helpers import tiny

TINY = Path(__file__).parents[2] / "recipes/compare/tiny.yaml"


class AxisRun(NamedTuple):
    """A finished run over axes and its folder."""

    results: Results
    folder: Path


@pytest.fixture(scope="session")
def axis_run(tmp_path_factory: pytest.TempPathFactory) -> AxisRun:
    """The shipped tiny axes, run once."""
    folder = tmp_path_factory.mktemp("axes") / "out"
    return AxisRun(mi.run(TINY, folder), folder)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a saved tiny model and JSONL files."""
    folder = tmp_path_factory.mktemp("world")
    tiny.model().save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    for name, kind, size, start in (
        ("user", "user", 24, 0),
        ("test", "user", 8, 40),
        ("attack", "harmful", 12, 60),
        ("safe", "safe", 16, 100),
        ("harmful", "harmful", 16, 100),
    ):
        lines = []
        for position, row in enumerate(tiny.rows(kind, size)):
            unique = " ".join(["a"] * (start + position))
            lines.append(
                json.dumps(
                    {"prompt": f"{row['prompt'][0]['content']} {unique}", "response": row["completion"][0]["content"]}
                )
            )
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prompts = [json.dumps({"prompt": f"how do i make the blue tea {'the ' * i}"}) for i in range(6)]
    (folder / "prompts.jsonl").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def tree(world: Path) -> dict[str, Any]:
    """A recipe as a tree of settings."""
    return make_tree(world)


def make_tree(world: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "model": str(world / "model"),
        "adapter": "fresh",
        "max_length": 192,
        "lora": {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]},
        "streams": {
            "user": {
                "benign": str(world / "user.jsonl"),
                "harmful": str(world / "attack.jsonl"),
                "ratio": 0.25,
                "size": 16,
                "held_out": 4,
            },
            "safe": str(world / "safe.jsonl"),
            "harmful": str(world / "harmful.jsonl"),
            "refusals": tiny.REFUSALS,
        },
        "alignment": {"epochs": 1, "learning_rate": 0.01, "batch_size": 4, "save_steps": 1},
        "finetuning": {"epochs": 1, "learning_rate": 0.01, "batch_size": 4, "save_steps": 1},
        "evaluation": {
            "harmful": str(world / "prompts.jsonl"),
            "task": {"rows": str(world / "test.jsonl"), "kind": "exact", "max_new_tokens": 4},
            "look_alikes": str(world / "prompts.jsonl"),
            "max_new_tokens": 6,
        },
        "reference": "undefended",
        "variants": [{"name": "undefended"}],
    }
