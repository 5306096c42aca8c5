"""`mithridate repair --by-shard`, and the advice to use it."""

import json
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from mithridate.files import file_hash
from tests.cli.conftest import Called
from tests.helpers.checkpoints import family, tensors


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return family(tmp_path_factory.mktemp("family"), dtype=torch.bfloat16)


def options(paths: dict[str, Path], out: Path, method: str = "lox", model: str = "tuned") -> list[str]:
    others = ["--aligned", str(paths["aligned"]), "--base", str(paths["base"])]
    return ["repair", str(paths[model]), "--method", method, *others, "--out", str(out)]


def test_the_same_weights_and_record(
    call: Called, paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*options(paths, tmp_path / "memory"), "--set", "rank=2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert call(*options(paths, tmp_path / "out"), "--set", "rank=2", "--json", "--by-shard") == 0
    printed = json.loads(capsys.readouterr().out)
    disk, memory = tensors(tmp_path / "out"), tensors(tmp_path / "memory")
    assert disk.keys() == memory.keys()
    assert all(torch.equal(disk[name], memory[name]) for name in disk)
    assert printed.pop("by_shard") is True
    assert printed["repaired"].pop("distance") == pytest.approx(told["repaired"].pop("distance"), rel=1e-12)
    assert printed | {"out": ""} == told | {"out": ""}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    files = manifest.pop("files")
    assert manifest.keys() == printed.keys() - {"out"} | {"by_shard"}
    assert all(file_hash(tmp_path / "out" / name) == digest for name, digest in files.items())


def test_an_adapter_is_displaced_and_can_be_rescaled(call: Called, paths: dict[str, Path], tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    arguments = options(paths, out, "random_perturbation", "adapter")
    assert call(*arguments, "--set", "radius=2", "--by-shard") == 0
    assert call("rescale", str(out), str(out / "displacement.safetensors"), "0", "--out", str(back)) == 0
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (paths["adapter"], back))
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_type_of_weights_is_kept(
    call: Called, paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*options(paths, tmp_path / "out"), "--by-shard", "--dtype", "float32") == 2
    assert capsys.readouterr().err == "mithridate: --by-shard keeps the type of every weight; leave --dtype out\n"
    assert not (tmp_path / "out").exists()


def test_models_larger_than_memory(
    call: Called, paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    size = sum(
        path.stat().st_size for name in ("tuned", "aligned", "base") for path in paths[name].glob("*.safetensors")
    )
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=size - 1))
    assert call(*options(paths, tmp_path / "out")) == 2
    assert "GB of memory are free; add --by-shard, which reads one weight at a time" in capsys.readouterr().err
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=size))
    assert call(*options(paths, tmp_path / "out")) == 0
