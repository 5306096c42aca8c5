"""bfloat16 in, bfloat16 out; and what precision and dtype mean."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mithridate as mi
from mithridate.experiment.plan import released_dtype
from mithridate.experiment.recipe_file import make_recipe
from mithridate.models.loading import stored_dtype
from tests.helpers import tiny
from tests.matrix.row import thinned


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16")
    tiny.model().to(torch.bfloat16).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def kinds(folder: Path) -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}


@pytest.mark.parametrize("adapter", thinned(["fresh", "none"], ["fresh"]))
@pytest.mark.parametrize("precision", thinned(["float32", "auto"], ["auto"]))
def test_a_bfloat16_model_is_released_as_bfloat16(
    tree: dict[str, Any], tmp_path: Path, bf16: Path, precision: str, adapter: str
) -> None:
    tree |= {"model": str(bf16), "precision": precision, "adapter": adapter}
    mi.run(tree, tmp_path)
    assert kinds(tmp_path / "variants/undefended/seed-0") == {torch.bfloat16}
    stored = [path.parent for path in (tmp_path / "store").glob("*/model/model.safetensors")]
    held = {kind for folder in stored for kind in kinds(folder)}
    assert held == {torch.bfloat16 if precision == "auto" else torch.float32}


def test_another_type_can_be_asked_for(tree: dict[str, Any], tmp_path: Path) -> None:
    mi.run(tree | {"dtype": "bfloat16"}, tmp_path / "half")
    mi.run(tree, tmp_path / "whole")
    half, whole = (
        load_file(tmp_path / name / "variants/undefended/seed-0/model.safetensors") for name in ("half", "whole")
    )
    assert {tensor.dtype for tensor in whole.values()} == {torch.float32}
    assert all(torch.equal(half[name], tensor.to(torch.bfloat16)) for name, tensor in whole.items())


def test_a_model_that_does_not_say_its_type_is_looked_at(bf16: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "silent"
    shutil.copytree(bf16, folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype", None)
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert stored_dtype(str(folder)) is torch.bfloat16


def test_what_is_released_follows_the_model_or_the_recipe(tree: dict[str, Any], bf16: Path) -> None:
    recipe = make_recipe(tree)
    assert released_dtype(recipe, str(bf16)) is torch.bfloat16
    assert released_dtype(recipe, tree["model"]) is torch.float32
    assert released_dtype(make_recipe(tree | {"dtype": "float16"}), str(bf16)) is torch.float16
