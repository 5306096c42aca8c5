"""A repair on disk that was stopped goes on where it stopped, and its output is whole or not there."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch

import mithridate as mi
from mithridate.errors import CheckpointError, MithridateError
from mithridate.files import file_hash
from tests.helpers import tiny
from tests.helpers.checkpoints import family, on_disk, tensors
from tests.helpers.processes import exit_code

REPAIRS = [
    ("SafeLoRA", {"threshold": 0.9}),
    ("SafeDelta", {"scale": 0.3}),
    ("Antidote", {"scope": "weights", "mask_ratio": 0.2}),
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return family(tmp_path_factory.mktemp("family"))


def journal_of(partial):
    return partial.with_name(".out.partial.journal.json")


def repair_and_be_killed(repair, paths, out, journal):
    """Repair, and be killed as soon as two files are finished."""

    def progress(done, total):
        if journal.exists() and len(json.loads(journal.read_text())["files"]) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)

    on_disk(repair, paths, out, progress=progress)


class Stop(Exception):
    """What a caller's progress raises."""


def stop_after(files, journal):
    """Raises as soon as some files are finished."""

    def progress(done, total):
        if journal.exists() and len(json.loads(journal.read_text())["files"]) >= files:
            raise Stop

    return progress


@pytest.mark.parametrize(
    ("name", "settings"), [REPAIRS[0], *(pytest.param(*one, marks=pytest.mark.slow) for one in REPAIRS[1:])]
)
def test_killed_between_files(paths, tmp_path, name, settings):
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    repair = getattr(mi, name)(**settings)
    whole = on_disk(repair, paths, tmp_path / "whole")
    assert exit_code(repair_and_be_killed, repair, paths, out, journal_of(partial)) == -signal.SIGKILL
    assert not out.exists()
    kept = json.loads(journal_of(partial).read_text())["files"]
    assert len(kept) >= 2
    before = {file: (partial / file).stat().st_mtime_ns for file in kept}
    resumed = on_disk(repair, paths, out)
    assert {file: (out / file).stat().st_mtime_ns for file in kept} == before
    # Figures of the files that were kept are in the record too.
    assert resumed.repaired == whole.repaired
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert file_hash(path) == file_hash(out / path.name)
    assert not partial.exists()
    manifest = json.loads((out / "manifest.json").read_text())
    assert all(file_hash(out / file) == digest for file, digest in manifest["files"].items())
    assert manifest["files"].keys() == {path.name for path in out.iterdir()} - {"manifest.json"}


def test_a_kept_file_that_was_altered_is_made_again(paths, tmp_path):
    repair, out, partial = mi.WiSEFT(alpha=0.5), tmp_path / "out", tmp_path / ".out.partial"
    with pytest.raises(Stop):
        on_disk(repair, paths, out, progress=stop_after(2, journal_of(partial)))
    file = next(iter(json.loads(journal_of(partial).read_text())["files"]))
    with (partial / file).open("r+b") as content:
        content.seek(-1, os.SEEK_END)
        content.write(b"\x55")
    on_disk(repair, paths, out)
    on_disk(repair, paths, tmp_path / "whole")
    assert all(torch.equal(a, tensors(tmp_path / "whole")[n]) for n, a in tensors(out).items())


def test_another_repair_does_not_go_on_from_it(paths, tmp_path):
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    with pytest.raises(Stop):
        on_disk(mi.WiSEFT(alpha=0.5), paths, out, progress=stop_after(1, journal_of(partial)))
    with pytest.raises(CheckpointError, match="unfinished repair that differs in settings; delete"):
        on_disk(mi.WiSEFT(alpha=0.4), paths, out)
    with pytest.raises(CheckpointError, match="differs in models"):
        on_disk(mi.WiSEFT(alpha=0.5), paths | {"aligned": paths["base"]}, out)
    on_disk(mi.WiSEFT(alpha=0.5), paths, out)


def test_a_folder_that_is_no_unfinished_repair_is_left_alone(paths, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "mine").write_text("kept")
    with pytest.raises(CheckpointError, match="is in the way and is no unfinished repair"):
        on_disk(mi.WiSEFT(alpha=0.5), paths, tmp_path / "out")
    assert (tmp_path / ".out.partial" / "mine").read_text() == "kept"


@pytest.mark.parametrize("writes", [1, 12, 30])
def test_a_full_disk(paths, tmp_path, monkeypatch, writes):
    plain, left, out = os.pwrite, [writes], tmp_path / "out"

    def full(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*arguments)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MithridateError, match="run the same command again, finished files are kept"):
        on_disk(mi.WiSEFT(alpha=0.5), paths, out)
    assert not out.exists()
    monkeypatch.setattr(os, "pwrite", plain)
    on_disk(mi.WiSEFT(alpha=0.5), paths, out)
    on_disk(mi.WiSEFT(alpha=0.5), paths, tmp_path / "whole")
    assert all(torch.equal(a, tensors(tmp_path / "whole")[n]) for n, a in tensors(out).items())


def test_two_at_once_are_refused(paths, tmp_path):
    def second(done, total):
        if done:
            with pytest.raises(CheckpointError, match="another process is writing"):
                on_disk(mi.WiSEFT(alpha=0.5), paths, tmp_path / "out")
            raise Stop

    with pytest.raises(Stop):
        on_disk(mi.WiSEFT(alpha=0.5), paths, tmp_path / "out", progress=second)


def test_progress_ends_at_all_bytes(paths, tmp_path):
    seen = []
    on_disk(mi.LoX(rank=2), paths, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in paths["tuned"].glob("*.safetensors"))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_stopped_before_it_has_its_name_the_same_call_gives_it(paths, tmp_path, monkeypatch):
    """All files are finished; what is left to do must not stand in its own way."""
    out, partial = tmp_path / "out", tmp_path / ".out.partial"

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(out), "rename", stopped)
        with pytest.raises(KeyboardInterrupt):
            on_disk(mi.WiSEFT(alpha=0.5), paths, out)
    before = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.safetensors")}
    on_disk(mi.WiSEFT(alpha=0.5), paths, out)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")} == before
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["files"].keys() == {path.name for path in out.iterdir()} - {"manifest.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_code_or_another_template_does_not_go_on_from_it(paths, tmp_path, monkeypatch):
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    template = tmp_path / "other.jinja"
    template.write_text("{{ '' }}" + tiny.TEMPLATE)
    with pytest.raises(Stop):
        on_disk(mi.WiSEFT(alpha=0.5), paths, out, progress=stop_after(1, journal_of(partial)))
    with pytest.raises(CheckpointError, match="differs in tokenizer"):
        on_disk(mi.WiSEFT(alpha=0.5), paths, out, template=str(template))
    monkeypatch.setattr("mithridate.experiment.checkpoint_inputs.code_versions", lambda: {"code": "changed"})
    with pytest.raises(CheckpointError, match="differs in versions"):
        on_disk(mi.WiSEFT(alpha=0.5), paths, out)


@pytest.mark.parametrize("name", [".", "link"])
def test_an_empty_folder_by_another_name_is_filled(paths, tmp_path, monkeypatch, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out" if name == "." else tmp_path)
    on_disk(mi.WiSEFT(alpha=0.5), paths, Path(name))
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "link"}
