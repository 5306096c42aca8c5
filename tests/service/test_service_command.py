"""The command line of the service, and its settings."""

import os
import re
import stat

import pytest
from typer.testing import CliRunner

from mithridate.cli.main import app
from mithridate.errors import UsageError
from mithridate.service.database.migrating import newest
from mithridate.service.service_settings import ServiceSettings, read_settings
from mithridate.service.starting import open_or_make


@pytest.fixture
def made(tmp_path):
    open_or_make(ServiceSettings(folder=tmp_path / "service")).database.close()


@pytest.fixture
def run(tmp_path):
    def running(*words):
        done = CliRunner().invoke(app, ["service", *words, "--folder", str(tmp_path / "service")])
        return done.output if done.exception is None else done.exception

    return running


def test_keys_are_made_listed_and_revoked(run, made):
    secret = run("key", "create", "--project", "red", "--role", "read", "--name", "ci").strip()
    assert secret.startswith("mk-")
    lines = run("key", "list").splitlines()
    assert [line.split()[1:] for line in lines] == [["default", "admin", "first", "key"], ["red", "read", "ci"]]
    assert secret not in "".join(lines)
    name = lines[1].split()[0]
    assert run("key", "revoke", name) == f"revoked: {name}\n"
    assert run("key", "list").splitlines()[1].endswith("revoked")
    assert "no key" in str(run("key", "revoke", name))
    said, last = run("verify").splitlines()
    assert said == "audit log: 3 entries, none altered"
    assert last.startswith("last: 3:")
    assert run("verify", "--known", last.removeprefix("last: ")) == f"{said}\n{last}\n"
    assert "4 were cut off" in str(run("verify", "--known", f"4:{last[-64:]}"))


def test_the_first_start_leaves_a_key_for_its_owner_alone(tmp_path):
    settings = ServiceSettings(folder=tmp_path / "service")
    open_or_make(settings).database.close()
    path = settings.folder / "first-key"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(settings.folder / "audit.key").st_mode) == 0o600
    first = path.read_text()
    open_or_make(settings).database.close()
    assert path.read_text() == first


@pytest.mark.parametrize("role", ["root", "", "Write"])
def test_a_key_of_no_known_role_is_not_made(run, made, role):
    found = run("key", "create", "--role", role)
    assert isinstance(found, UsageError)
    assert "holds no service" not in str(found)


def test_no_embedded_database_is_made_in_a_folder_without_a_service(run, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert "holds no service" in str(run("migrate"))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_database_goes_to_a_revision_and_back(run, made):
    assert run("migrate") == f"database: revision {newest()}\n"
    assert run("migrate", "base") == "database: revision none\n"
    assert "no revision" in str(run("migrate", "0815"))


def test_a_backup_is_made_and_restored(run, made, tmp_path):
    assert run("backup", str(tmp_path / "backup")).startswith("backup: 2 files")
    done = CliRunner().invoke(
        app,
        ["service", "restore", str(tmp_path / "backup"), "--folder", str(tmp_path / "again")],
        catch_exceptions=False,
    )
    assert done.output == "restored: 2 files\n"
    listed = CliRunner().invoke(app, ["service", "key", "list", "--folder", str(tmp_path / "again")])
    assert listed.output == run("key", "list")


def test_a_webhook_is_named_by_the_operator(run, made):
    assert run("webhook", "https://example.org/hook").startswith("whsec_")
    assert "no address" in str(run("webhook", "nowhere"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("folders: x", "unknown key 'folders'.*'folder'"),
        ("port: 70000", "port"),
        ("leases: {beat: 10, patience: 11}", "patience must be at least twice beat"),
        ("models: {'a:b': x}", "colon"),
        ("organization: 'a b'", "organization"),
        ("process: {sandbox: maybe}", "sandbox"),
        ("[]", "holds no settings"),
        ("uses: {active_jobs: yes}", "active_jobs"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path, text, match):
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(UsageError, match=match):
        read_settings(tmp_path / "settings.yaml")


def test_settings_come_from_the_file_and_the_command_line(tmp_path):
    (tmp_path / "settings.yaml").write_text("port: 1\nfolder: a\nmodels: {llama: /models/llama}\n")
    found = read_settings(tmp_path / "settings.yaml", port=2, host=None)
    assert (found.port, str(found.folder), found.host) == (2, "a", "127.0.0.1")
    assert list(found.offered) == ["llama"]
    with pytest.raises(UsageError, match="does not exist"):
        read_settings(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("revision", "advice"), [("9999", "install the version"), ("0001", "back it up with the version .* you had before")]
)
def test_a_database_of_another_version_is_not_opened(run, made, tmp_path, revision, advice):
    import sqlite3

    with sqlite3.connect(tmp_path / "service" / "service.db") as connection:
        connection.execute("update alembic_version set version_num = ?", [revision])
    connection.close()
    for words in (("key", "list"), ("backup", str(tmp_path / "backup"))):
        said = str(run(*words))
        assert f"revision {revision} and this version needs" in said
        assert re.search(advice, said)


@pytest.mark.parametrize(
    "words",
    [("key", "create"), ("key", "list"), ("verify",), ("backup", "b"), ("webhook", "https://example.org"), ("worker",)],
)
def test_no_command_but_start_makes_a_service_in_a_folder_that_was_mistyped(run, tmp_path, words):
    assert "holds no service; give its folder" in str(run(*words))
    assert not (tmp_path / "service").exists()


def test_a_database_that_is_away_is_one_sentence(tmp_path):
    with pytest.raises(Exception, match="does not answer") as raised:
        open_or_make(ServiceSettings(folder=tmp_path, database="postgresql://user:secret@127.0.0.1:9/none"))
    assert "secret" not in str(raised.value)
