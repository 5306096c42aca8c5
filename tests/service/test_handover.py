"""A released model on its way to an inference server: the judged bytes, or nothing."""

import errno
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from sqlalchemy import select, update
from typer.testing import CliRunner

from mithridate.cli.main import app
from mithridate.errors import CheckpointError, UsageError
from mithridate.provider.decision import Decision, PolicyName, Upload, write_decision
from mithridate.service.database.tables import JOBS, MODELS
from mithridate.service.handover import folder_name, resolve, serving_command
from tests.service.conftest import Server, make_parts, new_key, upload, work


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The folder of a service that has released a model, that model's name, and its job."""
    made = make_parts(tmp_path_factory.mktemp("left") / "service")
    server = Server(made)
    client = server.client(new_key(made))
    file = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file.id, suffix="shop").id
    work(made)
    name = client.fine_tuning.jobs.retrieve(job).fine_tuned_model
    server.close()
    made.database.close()
    return made.settings.folder, name, job


@pytest.fixture
def parts(left, tmp_path):
    """That service once more, for a test to change."""
    shutil.copytree(left[0], tmp_path / "service")
    return make_parts(tmp_path / "service")


@pytest.fixture
def released(parts, left):
    """The name of a released model, and its folder with a whole decision beside it."""
    _, name, job = left
    with parts.database.read() as connection:
        files = connection.execute(select(MODELS.c.files)).scalar_one()
    folder = parts.settings.jobs_folder / job / "out"
    write_decision(folder, decision(files))
    return name, folder


def decision(files, outcome="released"):
    return Decision(
        outcome=outcome, reasons=[], request="0", policy=PolicyName(name="tiny", sha256="0" * 64), model={},
        upload=Upload(name="x", sha256="0", rows=12, held_out=0), options={}, files=files, versions={}, created="now",
    )  # fmt: skip


@pytest.fixture(params=[False, True], ids=["copied", "linked"])
def link(request):
    return request.param


def test_the_judged_bytes_arrive_and_nobody_writes_them(parts, released, tmp_path, link):
    name, source = released
    served = resolve(parts, name, tmp_path / "serving", link=link)
    assert sorted(path.name for path in served.folder.iterdir()) == ["config.json", "model.safetensors"]
    for path in served.folder.iterdir():
        assert path.read_bytes() == (source / "model" / path.name).read_bytes()
        assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
        assert path.samefile(source / "model" / path.name) == link
    assert not served.folder.stat().st_mode & stat.S_IWUSR
    assert serving_command(served) == f"vllm serve {served.folder} --served-model-name {name}"
    assert resolve(parts, name, tmp_path / "serving", link=link) == served  # before every start


def swap(path):
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))


HARM = {
    "a byte": lambda model: swap(model / "model.safetensors"),
    "a file more": lambda model: (model / "adapter_model.bin").write_bytes(b"x"),
    "a file less": lambda model: (model / "config.json").unlink(),
    "a link": lambda model: (
        (model / "config.json").rename(model.parent / "c"), (model / "config.json").symlink_to(model.parent / "c"),
    ),
    "no folder": lambda model: model.rename(model.parent / "gone"),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARM)
def test_what_was_changed_at_its_place_is_not_handed_over(parts, released, tmp_path, link, harm):
    name, source = released
    HARM[harm](source / "model")
    with pytest.raises(CheckpointError):
        resolve(parts, name, tmp_path / "serving", link=link)
    assert not (tmp_path / "serving" / folder_name(name)).exists()


@pytest.mark.parametrize("harm", ["a byte", "a file more", "a file less", "a link"])
def test_what_was_changed_in_the_serving_folder_is_found_at_the_next_start(parts, released, tmp_path, harm):
    name, _ = released
    served = resolve(parts, name, tmp_path / "serving")
    served.folder.chmod(0o755)
    HARM[harm](served.folder)
    with pytest.raises(CheckpointError, match="do not serve it"):
        resolve(parts, name, tmp_path / "serving")


def test_a_folder_that_is_a_link_is_not_what_was_judged(parts, released, tmp_path):
    name, source = released
    served = resolve(parts, name, tmp_path / "serving")
    moved = served.folder.rename(tmp_path / "moved")
    served.folder.symlink_to(moved)
    with pytest.raises(CheckpointError, match=f"remove {served.folder} and resolve again"):
        resolve(parts, name, tmp_path / "serving")
    served.folder.unlink()
    served.folder.symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="does not hold the files"):
        resolve(parts, name, tmp_path / "serving")
    served.folder.unlink()
    (source / "model").rename(source / "moved")
    (source / "model").symlink_to(source / "moved")
    with pytest.raises(CheckpointError, match="does not hold the files"):
        resolve(parts, name, tmp_path / "serving")


def test_the_message_says_how_to_go_on(parts, released, tmp_path):
    name, _ = released
    served = resolve(parts, name, tmp_path / "serving")
    served.folder.chmod(0o755)
    swap(served.folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"do not serve it; remove {served.folder} and resolve again"):
        resolve(parts, name, tmp_path / "serving")
    shutil.rmtree(served.folder)
    assert resolve(parts, name, tmp_path / "serving") == served


def test_after_a_kill_the_next_call_takes_the_right_to_write_away(parts, released, tmp_path, link, monkeypatch):
    name, _ = released
    plain = Path.rename

    def killed(part, folder):
        plain(part, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            resolve(parts, name, tmp_path / "serving", link=link)
    folder = tmp_path / "serving" / folder_name(name)
    assert folder.stat().st_mode & stat.S_IWUSR
    assert resolve(parts, name, tmp_path / "serving", link=link).folder == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o555
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
    (folder / "config.json").chmod(0o644)
    resolve(parts, name, tmp_path / "serving", link=link)
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o444


def test_files_that_cannot_be_linked_are_refused_in_words(parts, released, tmp_path, monkeypatch):
    name, _ = released

    def elsewhere(link, file):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "hardlink_to", elsewhere)
        with pytest.raises(UsageError, match=r"cannot be linked \(.*cross-device.*\); leave --link out"):
            resolve(parts, name, tmp_path / "serving", link=True)
    assert not (tmp_path / "serving" / folder_name(name)).exists()
    assert resolve(parts, name, tmp_path / "serving").folder.is_dir()


def test_an_adapter_is_not_handed_over(parts, released, tmp_path):
    name, _ = released
    files = {"adapter_config.json": "0" * 64, "adapter_model.safetensors": "0" * 64}
    with parts.database.write() as connection:
        connection.execute(update(MODELS).values(files=files))
    with pytest.raises(CheckpointError, match="is an adapter"):
        resolve(parts, name, tmp_path / "serving")
    assert not (tmp_path / "serving").exists()


def test_what_is_changed_while_it_is_copied_is_found(parts, released, tmp_path, monkeypatch):
    name, _ = released
    plain = shutil.copyfile

    def changing(source, target):
        plain(source, target)
        swap(target)

    monkeypatch.setattr(shutil, "copyfile", changing)
    with pytest.raises(CheckpointError):
        resolve(parts, name, tmp_path / "serving")
    assert not (tmp_path / "serving" / folder_name(name)).exists()
    monkeypatch.setattr(shutil, "copyfile", plain)
    assert resolve(parts, name, tmp_path / "serving").folder.is_dir()  # what the first try left is no hindrance


@pytest.mark.parametrize("other", ["refused_at_release", "other files", "none", "damaged"])
def test_another_decision_beside_the_model_is_no_leave(parts, released, tmp_path, other):
    name, source = released
    if other == "none":
        (source / "decision.json").unlink()
    elif other == "damaged":
        (source / "decision.json").write_text("{")
    elif other == "other files":
        swap(source / "model" / "model.safetensors")
        files = json.loads((source / "decision.json").read_text())["files"]
        from mithridate.files import file_hash

        # Decision and model changed together: the database still has what was judged.
        write_decision(source, decision(files | {"model.safetensors": file_hash(source / "model/model.safetensors")}))
    else:
        write_decision(source, decision({}, other))
    with pytest.raises(Exception, match="decision"):
        resolve(parts, name, tmp_path / "serving")
    assert not (tmp_path / "serving" / folder_name(name)).exists()


def test_models_that_are_not_released_have_no_folder(parts, client, released, tmp_path):
    name, _ = released
    for unknown in ("ft:miniature:local::AAAAAAAA", "../../etc", "miniature", f"{name}:ckpt-step-2"):
        with pytest.raises(UsageError, match="no released model"):
            resolve(parts, unknown, tmp_path)
    with parts.database.write() as connection:
        connection.execute(update(JOBS).values(state="failed"))
    with pytest.raises(CheckpointError, match="not what its job"):
        resolve(parts, name, tmp_path)
    client.models.delete(name)
    with pytest.raises(UsageError, match="was deleted"):
        resolve(parts, name, tmp_path)


@pytest.mark.parametrize("name", ["ft:a/../../b:org:x:12345678", "../..", "/etc", ".hidden", "ft:a b:o::1", "::"])
def test_a_folders_name_stays_within_its_folder(name):
    folder = folder_name(name)
    assert folder not in (".", "..", "")
    assert os.sep not in folder
    assert not folder.startswith((".", "-"))


def test_the_command_prints_the_folder(parts, released, tmp_path):
    name, _ = released
    where = ["--out", str(tmp_path / "serving"), "--folder", str(parts.settings.folder)]
    done = CliRunner().invoke(app, ["service", "resolve", name, *where])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "serving" / folder_name(name))
    assert "vllm serve" in done.stderr
