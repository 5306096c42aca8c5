"""Damaged, mismatched and unsuitable checkpoints are refused in one sentence, and leave nothing behind."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mithridate as mi
from mithridate.errors import DefenseError, MithridateError, ModelError, UsageError
from mithridate.repair.post_tuning import Repair
from tests.helpers import tiny
from tests.helpers.adapters import adapted
from tests.helpers.checkpoints import family, on_disk, saved, tensors
from tests.helpers.origins import shaken

HALF = mi.WiSEFT(alpha=0.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def paths(made, tmp_path):
    """A copy of every checkpoint, to damage."""
    return {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in made.items()}


def holder(folder, name):
    """The file of a tensor."""
    return folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]


def changed(folder, name, change):
    """Rewrite one tensor of a checkpoint."""
    path = holder(folder, name)
    held = load_file(path)
    held[name] = change(held[name])
    save_file(held, path, {"format": "pt"})


def refused(paths, tmp_path, error=ModelError, repair=HALF, model="tuned", **given):
    with pytest.raises(error) as caught:
        on_disk(repair, paths, tmp_path / "out", model, **given)
    assert not any("out" in path.name for path in tmp_path.iterdir())
    said = str(caught.value)
    assert "\n" not in said
    return said


NORM = "model.layers.1.input_layernorm.weight"
MATRIX = "model.layers.1.mlp.up_proj.weight"


def test_a_shard_that_is_missing(paths, tmp_path):
    path = holder(paths["aligned"], MATRIX)
    path.unlink()
    assert f"lacks {path.name}, which its index names" in refused(paths, tmp_path)


def test_an_index_that_names_a_tensor_that_is_not_there(paths, tmp_path):
    index = paths["tuned"] / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.layers.7.extra.weight"] = holder(paths["tuned"], MATRIX).name
    index.write_text(json.dumps(content))
    assert "names 'model.layers.7.extra.weight'" in refused(paths, tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}', "{"]
)
def test_an_index_that_is_none(paths, tmp_path, content):
    (paths["tuned"] / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refused(paths, tmp_path)


def test_a_tensor_that_the_files_lack_or_hold_twice(paths, tmp_path):
    path = holder(paths["tuned"], MATRIX)
    held, index = load_file(path), paths["tuned"] / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    other = next(paths["tuned"] / file for file in content["weight_map"].values() if file != path.name)
    save_file(load_file(other) | {MATRIX: held[MATRIX]}, other)
    assert f"'{MATRIX}' is in two files" in refused(paths, tmp_path)
    save_file({name: tensor for name, tensor in load_file(other).items() if name != MATRIX}, other)
    save_file({name: tensor for name, tensor in held.items() if name != MATRIX} | {"other": torch.ones(1)}, path)
    del content["weight_map"][MATRIX]
    index.write_text(json.dumps(content))
    assert f"lacks '{MATRIX}', which a model of its settings has" in refused(paths, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "grown", "garbage", "empty", "header"])
def test_a_file_that_is_not_whole(paths, tmp_path, damage):
    path = holder(paths["tuned"], MATRIX)
    content = path.read_bytes()
    damaged = {
        "cut": content[:-1], "grown": content + b"0", "garbage": b"\xff" * 64, "empty": b"", "header": content[:20],
    }[damage]  # fmt: skip
    path.write_bytes(damaged)
    assert "is not a whole safetensors file" in refused(paths, tmp_path)


def test_partners_of_another_shape(paths, tmp_path):
    shutil.rmtree(paths["aligned"])
    saved(tiny.model(hidden=32, layers=3), paths["aligned"])
    assert "in the aligned= model; give models of the same architecture" in refused(paths, tmp_path)
    shutil.rmtree(paths["aligned"])
    saved(tiny.model(layers=2), paths["aligned"])
    assert "the aligned= model has no weight 'model.layers.2." in refused(paths, tmp_path)


def test_files_of_another_shape_than_the_settings_say(paths, tmp_path):
    changed(paths["tuned"], MATRIX, lambda tensor: tensor[:-1].contiguous())
    assert "by the settings in" in refused(paths, tmp_path)


@pytest.mark.parametrize("repair", [HALF, mi.LoX(rank=2), mi.Antidote(scope="weights")], ids=lambda r: r.info.name)
@pytest.mark.parametrize("name", [NORM, MATRIX])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(paths, tmp_path, repair, name, value):
    """Also where the repair would not touch them."""
    changed(paths["tuned"], name, lambda tensor: tensor.index_fill(0, torch.tensor([3]), value))
    assert "the weights hold NaN or Inf" in refused(paths, tmp_path, repair=repair)


def test_a_partner_that_is_not_finite(paths, tmp_path):
    changed(paths["aligned"], MATRIX, lambda tensor: tensor.index_fill(0, torch.tensor([3]), float("nan")))
    assert "the weights hold NaN or Inf" in refused(paths, tmp_path)


def test_a_quantized_checkpoint(paths, tmp_path):
    config = paths["tuned"] / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    assert "are quantized" in refused(paths, tmp_path, DefenseError)
    config.write_text(json.dumps(content))
    changed(paths["tuned"], MATRIX, lambda tensor: tensor.to(torch.int8))
    assert f"{MATRIX} is quantized (torch.int8)" in refused(paths, tmp_path, DefenseError)


def test_pickles_alone(paths, tmp_path):
    for path in paths["tuned"].glob("*.safetensors*"):
        path.unlink()
    torch.save({}, paths["tuned"] / "pytorch_model.bin")
    assert "save it again with save_pretrained, which writes safetensors" in refused(paths, tmp_path)


def test_tied_weights_that_differ(tmp_path):
    paths = family(tmp_path, "tied")
    index = paths["tuned"] / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    embedding = load_file(holder(paths["tuned"], "model.embed_tokens.weight"))["model.embed_tokens.weight"]
    extra = paths["tuned"] / "extra.safetensors"
    content["weight_map"]["lm_head.weight"] = extra.name
    index.write_text(json.dumps(content))
    save_file({"lm_head.weight": embedding + 1}, extra)
    assert "are tied by the settings" in refused(paths, tmp_path)
    save_file({"lm_head.weight": embedding}, extra)
    on_disk(HALF, paths, tmp_path / "out")
    found = tensors(tmp_path / "out")
    assert not torch.equal(found["lm_head.weight"], embedding)
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


def test_outputs_that_are_taken(paths, tmp_path):
    out = tmp_path / "taken"
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(UsageError, match="is not empty"):
        on_disk(HALF, paths, out)
    with pytest.raises(UsageError, match="is not empty"):
        on_disk(HALF, paths, out / "mine")
    for name in ("tuned", "aligned"):
        with pytest.raises(UsageError, match="lies inside the model's folder"):
            on_disk(HALF, paths, paths[name] / "out")
    assert (out / "mine").read_text() == "kept"
    assert not any(".partial" in path.name for path in tmp_path.rglob("*"))
    (out / "mine").unlink()
    on_disk(HALF, paths, out)
    assert (out / "manifest.json").is_file()


def test_what_needs_the_whole_model_in_memory(paths, tmp_path):
    class Own(Repair):
        info = mi.methods()["antidote"]

    assert "Own needs the whole model in memory" in refused(paths, tmp_path, UsageError, Own())
    said = refused(paths, tmp_path, UsageError, mi.WiSEFT(strength="auto"))
    assert "a search for alpha would read every file once per dose" in said


def test_a_repair_without_what_it_needs_or_without_effect(paths, tmp_path):
    for repair in (mi.WiSEFT(alpha=1.0), mi.Panacea(radius=0)):
        assert "changes nothing at these settings" in refused(paths, tmp_path, DefenseError, repair)
    with pytest.raises(DefenseError, match="Antidote needs harmful="):
        mi.repair_checkpoint(mi.Antidote(scope="weights"), paths["tuned"], tmp_path / "other")
    with pytest.raises(DefenseError, match="RESTA needs aligned="):
        mi.repair_checkpoint(mi.RESTA(), paths["tuned"], tmp_path / "another", base=paths["base"])


def test_precisions_may_differ_between_files_and_models(paths, tmp_path):
    changed(paths["tuned"], MATRIX, lambda tensor: tensor.bfloat16())
    changed(paths["tuned"], NORM, lambda tensor: tensor.half())
    shutil.rmtree(paths["aligned"])
    saved(tiny.model(layers=3).bfloat16(), paths["aligned"])
    before, aligned = tensors(paths["tuned"]), tensors(paths["aligned"])
    on_disk(mi.WiSEFT(alpha=0.25), paths, tmp_path / "out")
    after = tensors(tmp_path / "out")
    for name, tensor in before.items():
        mixed = tensor.double() + 0.75 * (aligned[name].double() - tensor.double())
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], mixed.to(tensor.dtype)), name


def test_an_adapter_that_holds_more_than_its_own_weights(paths, tmp_path):
    twin = adapted(shaken(tiny.model(layers=3), 1, 0.1), ["embed_tokens", "q_proj"])
    twin.peft_config["default"].base_model_name_or_path = str(paths["aligned"])
    twin.save_pretrained(tmp_path / "embeddings")
    paths["embeddings"] = tmp_path / "embeddings"
    assert "which is no part of a LoRA" in refused(paths, tmp_path, model="embeddings")


def test_modules_that_an_adapter_replaces_are_written_too(paths, tmp_path):
    twin = adapted(tiny.model(layers=3), ["q_proj"], modules_to_save=["lm_head"])
    twin.peft_config["default"].base_model_name_or_path = str(paths["aligned"])
    twin.save_pretrained(tmp_path / "replacing")
    paths["replacing"] = tmp_path / "replacing"
    on_disk(mi.LoX(rank=2), paths, tmp_path / "out", "replacing")
    head = dict(twin.named_parameters())["base_model.model.lm_head.modules_to_save.default.weight"]
    assert torch.equal(tensors(tmp_path / "out")["lm_head.weight"], head)


def test_a_hub_s_cache_of_links(paths, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for number, path in enumerate(sorted(paths["tuned"].iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../blobs") / str(number))
    paths["tuned"] = snapshot
    on_disk(HALF, paths, tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    names = [{path.name for path in folder.iterdir()} for folder in (tmp_path / "out", snapshot)]
    assert names[0] == names[1] | {"manifest.json"}


def test_weights_in_other_forms_are_not_copied(paths, tmp_path):
    (paths["tuned"] / "pytorch_model.bin").write_bytes(b"unrepaired")
    (paths["tuned"] / "old.safetensors").write_bytes(b"unrepaired")
    (paths["tuned"] / "LICENSE").write_text("as before")
    (paths["tuned"] / "manifest.json").write_text("of the model")
    on_disk(HALF, paths, tmp_path / "out")
    out = tmp_path / "out"
    assert (out / "LICENSE").read_text() == "as before"
    assert not (out / "pytorch_model.bin").exists()
    assert not (out / "old.safetensors").exists()
    assert json.loads((out / "manifest.json").read_text())["method"] == "wise_ft"


def test_errors_are_those_of_the_library(paths, tmp_path):
    with pytest.raises(MithridateError, match="does not exist"):
        mi.repair_checkpoint(HALF, tmp_path / "nowhere" / "model", tmp_path / "out", aligned=paths["aligned"])
