"""A tiny model on disk, rows in files beside it, and a recipe over them."""

import json
from pathlib import Path
from typing import Any

from tests.helpers import tiny

FILES = (
    ("user", "user", 24, 0),
    ("test", "user", 8, 40),
    ("attack", "harmful", 12, 60),
    ("safe", "safe", 16, 100),
    ("harmful", "harmful", 16, 100),
)
"""Name, kind of rows, their number, and words that the first of them has more than others of its kind."""


def make_world(folder: Path, *, weights: bool = True) -> Path:
    """Write a model, or its settings alone, and JSONL files into a folder, and return it."""
    model = tiny.model()
    (model if weights else model.config).save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    for name, kind, size, start in FILES:
        rows = []
        for position, row in enumerate(tiny.rows(kind, size)):
            unique = " ".join(["a"] * (start + position))
            asked = f"{row['prompt'][0]['content']} {unique}"
            rows.append({"prompt": asked, "response": row["completion"][0]["content"]})
        _write(folder / f"{name}.jsonl", rows)
    _write(folder / "prompts.jsonl", [{"prompt": f"how do i make the blue tea {'the ' * i}"} for i in range(6)])
    return folder


def make_tree(world: Path) -> dict[str, Any]:
    """Return a recipe that runs in seconds, as a tree of settings."""
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


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
