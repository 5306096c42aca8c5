"""The database: every revision up and down on SQLite and PostgreSQL, and no difference from the tables in the code."""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from benchmarks.own_postgres import Absent, own_postgres
from sqlalchemy import func, insert, inspect, select

from mithridate.errors import ServiceError, UsageError
from mithridate.service import backups
from mithridate.service.backups import back_up, restore
from mithridate.service.database import migrating
from mithridate.service.database.migrating import migrate, newest, require_newest, revision_of
from mithridate.service.database.opened import Database
from mithridate.service.database.tables import JOBS, METADATA, PROJECTS, REPORTS
from mithridate.service.jobs.job_states import EDGES
from mithridate.service.policy_facts import report
from mithridate.service.service_settings import ServiceSettings
from tests.service.conftest import Server, make_parts, new_key, upload, work
from tests.service.test_leases import add, project


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server of our own."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(own_postgres())
        except Absent as absent:
            pytest.skip(str(absent))
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """An address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'one.db'}"
    return request.getfixturevalue("postgres").create(f"t{time.time_ns()}")


def test_every_revision_goes_up_and_down(url):
    database = Database(url)
    with pytest.raises(ServiceError, match="revision none"):
        require_newest(database)
    migrate(database)
    assert revision_of(database) == newest()
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    migrate(database)  # once more changes nothing
    with database.write() as connection:
        project(connection)
        name = add(connection)
    migrate(database, "base")
    with database.read() as connection:
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
    migrate(database)
    with database.write() as connection:
        assert connection.execute(select(func.count()).select_from(JOBS)).scalar_one() == 0, name
    with pytest.raises(ServiceError, match="there is no revision"):
        migrate(database, "9999")
    database.close()


def test_what_is_there_survives_every_revision_up_and_down(url):
    database = Database(url)
    script = ScriptDirectory(str(Path(migrating.__file__).parent / "migrations"))
    revisions = [one.revision for one in reversed(list(script.walk_revisions()))]
    assert (revisions[0], revisions[-1]) == ("0001", newest())
    migrate(database, revisions[0])
    with database.write() as connection:
        project(connection)
        names = {add(connection, state) for state in EDGES}
    for revision in [*revisions[1:], *reversed(revisions[:-1])]:
        migrate(database, revision)
        with database.read() as connection:
            rows = connection.execute(select(JOBS.c.id, JOBS.c.state)).all()
        assert ({row.id for row in rows}, {row.state for row in rows}) == (names, set(EDGES)), revision
    database.close()


def test_many_report_the_same_at_once(url):
    database = Database(url)
    migrate(database)

    def reports(number):
        for _ in range(20):
            with database.write() as connection:
                report(connection, "pipeline", facts={"by": number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reports, range(8)))
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(REPORTS)).scalar_one() == 1
    database.close()


def test_an_interrupted_migration_leaves_nothing(url, monkeypatch):
    real = migrating.command.upgrade

    def half(config, revision):
        real(config, revision)
        raise KeyboardInterrupt

    database = Database(url)
    monkeypatch.setattr(migrating.command, "upgrade", half)
    with pytest.raises(KeyboardInterrupt):
        migrate(database)
    assert revision_of(database) is None
    monkeypatch.undo()
    migrate(database)
    assert revision_of(database) == newest()
    database.close()


def test_a_job_runs_on_either_database_and_survives_backup_and_restore(url, tmp_path, monkeypatch, request):
    if url.startswith("postgresql"):
        monkeypatch.setenv("PATH", f"{request.getfixturevalue('postgres').programs}:{os.environ['PATH']}")
    parts = make_parts(tmp_path / "service", database=url)
    server = Server(parts)
    key = new_key(parts)
    client = server.client(key)
    file = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file.id, metadata={"a": "b"})
    work(parts)
    before = client.fine_tuning.jobs.retrieve(job.id)
    assert before.status == "succeeded", before.error
    assert back_up(parts, tmp_path / "backup") > 0
    with pytest.raises(UsageError, match="exists"):
        back_up(parts, tmp_path / "backup")
    with pytest.raises(UsageError, match="holds data already"):
        restore(parts.settings, tmp_path / "backup")
    server.close()
    if url.startswith("postgresql"):
        return _restored(tmp_path, request.getfixturevalue("postgres"), before, key, file)
    return _restored(tmp_path, None, before, key, file)


def _restored(tmp_path, postgres, before, key, file):
    given = {}
    if postgres is not None:
        given["database"] = postgres.create(f"r{time.time_ns()}")
    settings = ServiceSettings(folder=tmp_path / "again", **given)
    restore(settings, tmp_path / "backup")
    parts = make_parts(tmp_path / "again", **given)
    server = Server(parts)
    client = server.client(key)
    assert client.fine_tuning.jobs.retrieve(before.id) == before
    assert client.files.content(file.id).read() == upload()
    assert parts.audit.verify(parts.database) >= 3
    server.close()
    parts.database.close()


def test_a_damaged_backup_is_refused(tmp_path, parts):
    back_up(parts, tmp_path / "backup")
    (tmp_path / "backup" / "database").write_bytes(b"nothing")
    with pytest.raises(ServiceError, match="missing or altered"):
        restore(ServiceSettings(folder=tmp_path / "again"), tmp_path / "backup")
    with pytest.raises(UsageError, match=r"backup\.json"):
        restore(ServiceSettings(folder=tmp_path / "again"), tmp_path)


@pytest.mark.parametrize("revision", ["0001", "9999", None])
def test_a_backup_of_another_version_is_refused_before_anything_is_written(tmp_path, parts, revision):
    back_up(parts, tmp_path / "backup")
    manifest = tmp_path / "backup" / "backup.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"revision": revision}))
    with pytest.raises(ServiceError, match=f"has revision {revision or 'none'} .* restore it with the version"):
        restore(ServiceSettings(folder=tmp_path / "again"), tmp_path / "backup")
    assert not (tmp_path / "again").exists()


def test_postgresqls_password_is_in_no_process_list(parts, tmp_path, monkeypatch):
    started = []

    def run(command, env, **_):
        started.append((command, env))
        return subprocess.CompletedProcess(command, 1, "", "it is away")

    monkeypatch.setattr(backups.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(backups.subprocess, "run", run)
    database = Database("postgresql://user:s%40cret@db.example.org:5433/shop")
    for call in (backups._dump, backups._load):
        with pytest.raises(ServiceError, match="it is away"):
            call(database, tmp_path / "database")
    for command, env in started:
        assert "s@cret" not in str(command)
        assert "s%40cret" not in str(command)
        assert "postgresql://user@db.example.org:5433/shop" in command[-2] + command[-1]
        assert env["PGPASSWORD"] == "s@cret"


def test_a_backup_follows_no_link_that_a_job_left(tmp_path, parts):
    server = Server(parts)
    client = server.client(new_key(parts))
    file = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file.id)
    work(parts)
    server.close()
    out = parts.settings.jobs_folder / job.id / "out"
    (out / "away").symlink_to(parts.settings.folder)
    (out / "work").mkdir()
    back_up(parts, tmp_path / "backup")
    kept = {path.name for path in (tmp_path / "backup" / "jobs" / job.id / "out").iterdir()}
    assert "model" in kept
    assert not {"away", "work"} & kept


@pytest.mark.parametrize("address", ["nothing", "mysql://x/y", ""])
def test_an_address_of_no_database_of_ours_is_refused(address):
    with pytest.raises(UsageError, match="database"):
        Database(address)


def test_a_write_that_fails_leaves_nothing(parts):
    with suppress(ZeroDivisionError), parts.database.write() as connection:
        connection.execute(insert(PROJECTS).values(id="p", name="p", created_at=0))
        raise ZeroDivisionError
    with parts.database.read() as connection:
        assert connection.execute(select(PROJECTS)).all() == []
