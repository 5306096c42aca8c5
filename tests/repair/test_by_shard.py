"""A repair on disk leaves what the same repair in memory leaves, and files that transformers loads."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import mithridate as mi
from mithridate.errors import ModelError
from mithridate.files import file_hash
from mithridate.models import stored_weights
from tests.families import models as families
from tests.helpers.checkpoints import family, in_memory, on_disk, saved, tensors
from tests.matrix.row import thinned

DATA_FREE = [
    mi.WiSEFT(alpha=0.3), mi.RESTA(strength=0.7), mi.RESTA(strength=0.5, drop=0.4), mi.LoX(strength=1.0, rank=2),
    mi.SafeLoRA(threshold=0.9), mi.SafeLoRA(layers=3),
    mi.RandomPerturbation(radius=2.0, seed=4), mi.RandomPerturbation(std=0.01, seed=-1),
]  # fmt: skip
MEASURING = [
    mi.SafeDelta(scale=0.3), mi.Antidote(scope="weights", mask_ratio=0.2),
    mi.Antidote(scope="weights", score="magnitude", ranking="global", mask_ratio=0.2),
]  # fmt: skip
WHOLE = DATA_FREE + MEASURING


def named(repair):
    return f"{repair.info.name} {repair.model_dump(exclude_defaults=True)}"


@pytest.mark.parametrize("dtype", thinned([torch.float32, torch.bfloat16], [torch.bfloat16]), ids=str)
@pytest.mark.parametrize("repair", WHOLE, ids=named)
def test_the_weights_are_those_of_the_repair_in_memory(repair, dtype, tmp_path):
    paths = family(tmp_path, dtype=dtype)
    found = on_disk(repair, paths, tmp_path / "out").repaired
    told = in_memory(repair, paths, tmp_path / "memory")
    disk, memory = tensors(tmp_path / "out"), tensors(tmp_path / "memory")
    assert disk.keys() == memory.keys()
    different = [name for name in disk if not torch.equal(disk[name], memory[name])]
    assert different == []
    assert found.changed == told.changed
    assert found.distance == pytest.approx(told.distance, rel=1e-12)
    assert found.activity == told.activity
    assert found.layer_profile == told.layer_profile or found.layer_profile.layers == told.layer_profile.layers


BY_ROWS = [
    mi.WiSEFT(alpha=0.3), mi.RESTA(strength=0.7), mi.Antidote(scope="weights", mask_ratio=0.2),
    mi.RandomPerturbation(radius=2.0, seed=4),
]  # fmt: skip


@pytest.fixture
def few_rows_in_many_threads(monkeypatch):
    monkeypatch.setattr(stored_weights, "PIECE", 40)
    monkeypatch.setattr(stored_weights, "BLOCK", 200)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", thinned(["llama", "gpt2", "tied"], ["gpt2"]))
@pytest.mark.parametrize("repair", BY_ROWS, ids=named)
def test_a_few_rows_at_a_time_in_many_threads(repair, kind, tmp_path, few_rows_in_many_threads):
    paths = family(tmp_path, kind, torch.bfloat16)
    first, again = on_disk(repair, paths, tmp_path / "out"), on_disk(repair, paths, tmp_path / "again")
    assert first.repaired == again.repaired
    in_memory(repair, paths, tmp_path / "memory")
    disk, memory = tensors(tmp_path / "out"), tensors(tmp_path / "memory")
    assert [name for name in memory if not torch.equal(disk[name], memory[name])] == []
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert all(file_hash(tmp_path / "out" / file) == digest for file, digest in manifest["files"].items())


def test_damage_in_the_last_rows_stops_all_threads(tmp_path, few_rows_in_many_threads):
    paths = family(tmp_path)
    index = json.loads((paths["aligned"] / "model.safetensors.index.json").read_text())["weight_map"]
    path = paths["aligned"] / index["model.layers.2.mlp.up_proj.weight"]
    held = load_file(path)
    held["model.layers.2.mlp.up_proj.weight"][-1, -1] = float("inf")
    save_file(held, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"the weights hold NaN or Inf \(model.layers.2.mlp.up_proj.weight in"):
        on_disk(mi.WiSEFT(alpha=0.3), paths, tmp_path / "out")
    assert not any("out" in one.name for one in tmp_path.iterdir())


@pytest.mark.parametrize("kind", thinned(["gpt2", "tied"], ["gpt2"]))
@pytest.mark.parametrize("repair", WHOLE, ids=named)
def test_other_architectures(repair, kind, tmp_path):
    paths = family(tmp_path, kind)
    on_disk(repair, paths, tmp_path / "out")
    in_memory(repair, paths, tmp_path / "memory")
    disk, memory = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("out", "memory"))
    for (name, one), other in zip(disk.named_parameters(), memory.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("scope", [None, "delta", "adapter"])
@pytest.mark.parametrize("kind", thinned(["llama", "gpt2"], ["gpt2"]))
def test_an_adapter_s_folder(kind, scope, tmp_path):
    paths = family(tmp_path, kind)
    repairs = WHOLE if scope is None else [mi.Antidote(scope=scope, mask_ratio=0.3)]
    for number, repair in enumerate(repairs):
        on_disk(repair, paths, tmp_path / f"out{number}", "adapter")
        in_memory(repair, paths, tmp_path / f"memory{number}", "adapter")
        disk, memory = tensors(tmp_path / f"out{number}"), tensors(tmp_path / f"memory{number}")
        assert disk.keys() == memory.keys()
        for name in disk:
            assert torch.allclose(disk[name], memory[name], rtol=1e-6, atol=1e-7), (named(repair), name)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "tied"])
@pytest.mark.parametrize("repair", [mi.Panacea(radius=2.0, batch_size=2), mi.RandomPerturbation(radius=2.0, seed=4)])
def test_displaced_weights(repair, kind, tmp_path):
    paths = family(tmp_path, kind)
    found = on_disk(repair, paths, tmp_path / "out").repaired
    told = in_memory(repair, paths, tmp_path / "memory")
    disk, memory, before = (tensors(tmp_path / name) for name in ("out", "memory", "tuned"))
    for name in disk:
        assert torch.allclose(disk[name] - before[name], memory[name] - before[name], rtol=1e-4, atol=1e-6), name
    assert found.distance == pytest.approx(told.distance, rel=1e-5)
    assert found.activity == pytest.approx(told.activity)
    assert not (tmp_path / "out" / "work").exists()


@pytest.mark.parametrize("repair", [mi.Panacea(radius=2.0, batch_size=2), mi.RandomPerturbation(std=0.1)])
def test_a_displaced_adapter_can_be_rescaled(repair, tmp_path):
    paths = family(tmp_path)
    on_disk(repair, paths, tmp_path / "out", "adapter")
    in_memory(repair, paths, tmp_path / "memory", "adapter")
    disk, memory = tensors(tmp_path / "out"), tensors(tmp_path / "memory")
    assert disk.keys() == memory.keys()
    for name in disk:
        assert torch.allclose(disk[name], memory[name], rtol=1e-4, atol=1e-6), name
    assert (tmp_path / "out" / "displacement.safetensors").is_file()
    assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.parametrize("repair", [mi.Antidote(scope="weights", mask_ratio=0.2), mi.Panacea(radius=1.0, batch_size=2)])
@pytest.mark.parametrize("name", ["qwen3", "gemma2", "opt"])
def test_families_block_by_block(name, repair, tmp_path):
    """Kinds of attention by layer, scaled embeddings, learned positions, norms in other places, tied heads."""
    paths = {"tuned": saved(families.family(name), tmp_path / "tuned")}
    on_disk(repair, paths, tmp_path / "out")
    in_memory(repair, paths, tmp_path / "memory")
    disk, memory = tensors(tmp_path / "out"), tensors(tmp_path / "memory")
    assert disk.keys() == memory.keys()
    for tensor in disk:
        if repair.info.name == "antidote":
            assert torch.equal(disk[tensor], memory[tensor]), tensor
        assert torch.allclose(disk[tensor], memory[tensor], atol=1e-6), tensor
