"""Backs a service up into one folder, and restores it from there."""

import json
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

from sqlalchemy import select

from mithridate.errors import ServiceError, UsageError
from mithridate.files import file_hash, write_json
from mithridate.service.audit_log import KEY_FILE
from mithridate.service.database.migrating import newest, revision_of
from mithridate.service.database.opened import Database
from mithridate.service.database.tables import FILES, MODELS
from mithridate.service.released_models import model_folder
from mithridate.service.service_parts import ServiceParts
from mithridate.service.service_settings import ServiceSettings

MANIFEST = "backup.json"
_DUMP = "database"


def back_up(parts: ServiceParts, target: Path) -> int:
    """Copy the database, the uploaded files and the released models into a new folder, while the service runs.

    The database comes first: whatever it names is there afterwards, unless it was deleted in between.

    Returns:
        How many files were copied.

    Raises:
        UsageError: If the folder exists.
        ServiceError: If the database cannot be copied.
    """
    if target.exists():
        raise UsageError(f"{target} exists; give another folder, nothing is overwritten")
    part = target.with_name(target.name + ".part")
    if part.exists():  # left by a kill
        shutil.rmtree(part)
    (part / "files").mkdir(parents=True)
    _dump(parts.database, part / _DUMP)
    shutil.copy2(parts.settings.folder / KEY_FILE, part / KEY_FILE)
    with parts.database.read() as connection:
        files = list(connection.execute(select(FILES.c.id)).scalars())
        models = list(connection.execute(select(MODELS).where(MODELS.c.deleted_at.is_(None))))
    present = set(parts.blobs.names())
    for name in files:
        if name in present:
            parts.blobs.copy_out(name, part / "files" / name)
    for row in models:
        source = model_folder(parts, row).parent
        if source.is_dir():
            # Without the stages: what is released and why is kept, the work can be done again.
            shutil.copytree(source, part / "jobs" / row.job_id / source.name, ignore=_not_kept)
    kept = {str(path.relative_to(part)): file_hash(path) for path in sorted(part.rglob("*")) if path.is_file()}
    write_json(part / MANIFEST, {"revision": revision_of(parts.database), "files": kept})
    part.rename(target)
    return len(kept)


def restore(settings: ServiceSettings, source: Path) -> int:
    """Bring a backup into a service that holds nothing yet.

    Returns:
        How many files were copied.

    Raises:
        UsageError: If the service holds something, or the folder is no backup.
        ServiceError: If the backup is damaged, or of another version.
    """
    manifest = source / MANIFEST
    if not manifest.is_file():
        raise UsageError(f"{source} holds no {MANIFEST}; give a folder that mithridate service backup has made")
    tree = json.loads(manifest.read_bytes())
    # Before anything is written: what is half restored holds data, and takes no second try.
    if (made := tree.get("revision")) != newest():
        raise ServiceError(
            f"{source} has revision {made or 'none'} and this version needs {newest()}; restore it with "
            "the version of Mithridate that made it, install this one, then run mithridate service migrate"
        )
    kept: dict[str, str] = tree["files"]
    for name, sha256 in kept.items():
        path = source / name
        if not path.is_file() or file_hash(path) != sha256:
            raise ServiceError(f"{path} is missing or altered; take another backup")
    settings.folder.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url)
    if revision_of(database) is not None or settings.jobs_folder.exists():
        raise UsageError("the service holds data already; restore into an empty folder and an empty database")
    database.close()  # SQLite's log beside its file would otherwise be taken for that of the restored one
    _load(database, source / _DUMP)
    shutil.copy2(source / KEY_FILE, settings.folder / KEY_FILE)
    if (source / "jobs").is_dir():
        shutil.copytree(source / "jobs", settings.jobs_folder)
    parts = ServiceParts.open(settings)
    for path in sorted((source / "files").iterdir()):
        with parts.blobs.begin(path.name) as blob:
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    blob.write(piece)
            parts.blobs.keep(blob, path.name)
    return len(kept)


def _dump(database: Database, target: Path) -> None:
    if database.is_sqlite:
        # SQLite's own backup: a copy of the file beside a running writer could be half of a transaction.
        with sqlite3.connect(str(database.address.database)) as source, sqlite3.connect(target) as copy:
            source.backup(copy)
        copy.close()
        source.close()
        return
    _postgres(database, ["pg_dump", "--format=custom", "--no-owner", f"--file={target}", _plain(database)])


def _load(database: Database, source: Path) -> None:
    if database.is_sqlite:
        shutil.copy2(source, str(database.address.database))
        return
    command = ["pg_restore", "--no-owner", "--exit-on-error", f"--dbname={_plain(database)}", str(source)]
    _postgres(database, command)


def _not_kept(folder: str, names: list[str]) -> list[str]:
    """Return what of a job's folder is not copied: its stages, and links, which may lead anywhere."""
    return [name for name in names if name == "work" or Path(folder, name).is_symlink()]


def _plain(database: Database) -> str:
    """Return the address without its password: everyone on the machine can read the arguments of a process."""
    return database.address._replace(drivername="postgresql", password=None).render_as_string()


def _postgres(database: Database, command: list[str]) -> None:
    program = shutil.which(command[0])
    if program is None:
        raise ServiceError(f"{command[0]} is not on the path; install PostgreSQL's client programs")
    password = database.address.password
    environment = os.environ if password is None else {**os.environ, "PGPASSWORD": str(password)}
    done = subprocess.run([program, *command[1:]], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ServiceError(f"{command[0]} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
