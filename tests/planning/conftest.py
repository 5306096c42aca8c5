"""A folder with a model's settings and tokenizer but no weights, rows in files, and a recipe over them."""

import json

import pytest

from tests.helpers import tiny


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planned")
    tiny.model().config.save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    kinds = {"user": ("user", 24), "attack": ("harmful", 12), "safe": ("safe", 16), "harm": ("harmful", 16)}
    for name, (kind, size) in kinds.items():
        lines = []
        for number, row in enumerate(tiny.rows(kind, size)):
            asked = f"{row['prompt'][0]['content']} {name} {'a ' * number}"
            lines.append(json.dumps({"prompt": asked, "response": row["completion"][0]["content"]}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    prompts = [json.dumps({"prompt": f"how do i make the blue tea {'the ' * i}"}) for i in range(6)]
    (folder / "prompts.jsonl").write_text("\n".join(prompts) + "\n")
    return folder


@pytest.fixture
def tree(world):
    return {
        "name": "tiny",
        "model": str(world / "model"),
        "adapter": "none",
        "max_length": 64,
        "lora": {"rank": 2, "targets": ["q_proj", "v_proj"]},
        "streams": {
            "user": {
                "benign": str(world / "user.jsonl"),
                "harmful": str(world / "attack.jsonl"),
                "ratio": 0.25,
                "size": 16,
                "held_out": 4,
            },
            "safe": str(world / "safe.jsonl"),
            "harmful": str(world / "harm.jsonl"),
            "refusals": tiny.REFUSALS,
        },
        "alignment": {"epochs": 2, "batch_size": 4},
        "finetuning": {"epochs": 3, "batch_size": 4},
        "evaluation": {
            "harmful": str(world / "prompts.jsonl"),
            "task": {"rows": str(world / "user.jsonl"), "kind": "exact", "max_new_tokens": 4},
            "max_new_tokens": 6,
            "batch_size": 4,
        },
        "reference": "undefended",
        "variants": [
            {"name": "undefended"},
            {"name": "flat", "alignment": "booster"},
            {"name": "kept", "alignment": {"method": "booster", "every": 4}},
            {"name": "pushed", "posttuning": {"method": "panacea", "radius": 1.0}},
            {"name": "found", "posttuning": {"method": "panacea", "strength": "auto"}},
        ],
    }
