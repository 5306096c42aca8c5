"""The commands ``mithridate service …``; each imports what it needs when it is called."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.errors import UsageError

if TYPE_CHECKING:
    from mithridate.service.service_parts import ServiceParts
    from mithridate.service.service_settings import ServiceSettings

app = typer.Typer(name="service", help="Run a fine-tuning service with OpenAI's contract.", no_args_is_help=True)
keys = typer.Typer(name="key", help="Make, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys)

SettingsFile = Annotated[Path | None, typer.Option("--settings", help="YAML file of settings.")]
Folder = Annotated[Path | None, typer.Option("--folder", help="Folder of the service; ./service by default.")]


def settings_of(path: Path | None, folder: Path | None, **given: Any) -> ServiceSettings:
    """Return the settings of a service.

    Raises:
        UsageError: If they cannot be used, or the service's own packages are not installed.
    """
    if find_spec("fastapi") is None or find_spec("sqlalchemy") is None:
        raise UsageError("the service needs further packages; run pip install 'mithridate[service]'")
    from mithridate.service.service_settings import read_settings

    return read_settings(path, folder=None if folder is None else str(folder), **given)


def _parts(path: Path | None, folder: Path | None) -> ServiceParts:
    settings = settings_of(path, folder)
    from mithridate.service.starting import open_made

    return open_made(settings)


@app.command("start")
def start(
    settings: SettingsFile = None,
    folder: Folder = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers beside the server.")] = None,
) -> None:
    """Start the server and its workers."""
    found = settings_of(settings, folder, host=host, port=port, workers=workers)
    from mithridate.service.starting import serve

    serve(found, settings)


@app.command("worker")
def worker(settings: SettingsFile = None, folder: Folder = None) -> None:
    """Start one more worker."""
    found = settings_of(settings, folder)
    from mithridate.service.starting import run_worker

    run_worker(found)


@app.command("migrate")
def migrate(
    revision: Annotated[str, typer.Argument(help="Revision to go to; an older one goes back.")] = "head",
    settings: SettingsFile = None,
    folder: Folder = None,
) -> None:
    """Bring the database to this version's tables."""
    found = settings_of(settings, folder)
    from mithridate.service.database import migrating
    from mithridate.service.database.opened import Database
    from mithridate.service.starting import require_made

    # An embedded database lies in the folder, and one that is not there would be made; another is named by its address.
    if found.database is None:
        require_made(found)
    database = Database(found.database_url)
    migrating.migrate(database, revision)
    print(f"database: revision {migrating.revision_of(database) or 'none'}")


@keys.command("create")
def create_key(
    project: Annotated[str, typer.Option(help="Project of the key; it is made where there is none.")] = "default",
    name: Annotated[str, typer.Option(help="What the key is for.")] = "key",
    role: Annotated[str, typer.Option(help="read, write or admin.")] = "write",
    settings: SettingsFile = None,
    folder: Folder = None,
) -> None:
    """Make an API key and print it; it is told this once."""
    parts = _parts(settings, folder)
    from mithridate.service.keys import api_keys

    with parts.database.write() as connection:
        made = api_keys.create_key(connection, project, name, role)
        parts.audit.add(connection, "operator", "key.create", made.id, role=role, project=project)
    print(made.secret)


@keys.command("list")
def list_keys(settings: SettingsFile = None, folder: Folder = None) -> None:
    """List the keys; none is told."""
    parts = _parts(settings, folder)
    from mithridate.service.keys.api_keys import listed_keys

    with parts.database.read() as connection:
        for line in listed_keys(connection):
            print(line)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="Id of the key.")], settings: SettingsFile = None, folder: Folder = None
) -> None:
    """Make a key useless from now on."""
    parts = _parts(settings, folder)
    from mithridate.service.keys import api_keys

    with parts.database.write() as connection:
        api_keys.revoke_key(connection, key)
        parts.audit.add(connection, "operator", "key.revoke", key)
    print(f"revoked: {key}")


@app.command("backup")
def backup(
    out: Annotated[Path, typer.Argument(help="Folder to make.")], settings: SettingsFile = None, folder: Folder = None
) -> None:
    """Back the service up, while it runs."""
    parts = _parts(settings, folder)
    from mithridate.service.backups import back_up

    print(f"backup: {back_up(parts, out)} files in {out}")


@app.command("restore")
def restore(
    source: Annotated[Path, typer.Argument(help="Folder that mithridate service backup has made.")],
    settings: SettingsFile = None,
    folder: Folder = None,
) -> None:
    """Restore a backup into an empty service."""
    found = settings_of(settings, folder)
    from mithridate.service import backups

    print(f"restored: {backups.restore(found, source)} files")


@app.command("verify")
def verify(
    known: Annotated[
        str | None, typer.Option(help="What an earlier verify printed as last; it must still hold.")
    ] = None,
    settings: SettingsFile = None,
    folder: Folder = None,
) -> None:
    """Check every entry of the audit log; with --known, also that its end was not cut off."""
    parts = _parts(settings, folder)
    print(f"audit log: {parts.audit.verify(parts.database, known)} entries, none altered")
    print(f"last: {parts.audit.mark(parts.database)}")


@app.command("webhook")
def webhook(
    url: Annotated[str, typer.Argument(help="Address that is told about ended jobs.")],
    project: Annotated[str, typer.Option(help="Project whose jobs are told.")] = "default",
    settings: SettingsFile = None,
    folder: Folder = None,
) -> None:
    """Name an address for a project's events, and print the secret of its signatures."""
    parts = _parts(settings, folder)
    from mithridate.service.webhooks import add_webhook

    with parts.database.write() as connection:
        name, secret = add_webhook(connection, project, url)
        parts.audit.add(connection, "operator", "webhook.create", name, project=project)
    print(secret)


@app.command("import")
def import_(
    places: Annotated[list[Path], typer.Argument(help="Folders or files of an export: .jsonl and .json.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="OLD=NEW, or NEW for all others that are not named ft:…; may be given several times."
        ),
    ] = None,
    project: Annotated[str, typer.Option(help="Project of the files and jobs.")] = "default",
    all_states: Annotated[bool, typer.Option("--all", help="Also jobs that failed or were cancelled.")] = False,
    settings: SettingsFile = None,
    folder: Folder = None,
) -> None:
    """Make files and jobs of what was exported from OpenAI; a second run makes none twice."""
    parts = _parts(settings, folder)
    from mithridate.service.importing.exported import read_exported
    from mithridate.service.importing.import_run import Importer
    from mithridate.service.keys.api_keys import Caller, project_id

    pairs = [one.rpartition("=") for one in model or []]
    with parts.database.write() as connection:
        caller = Caller(project_id(connection, project), "operator", "admin")
    importer = Importer(parts, caller, {old or "*": new for old, _, new in pairs}, all_states=all_states)
    refused = 0
    for line in importer.run(read_exported(places)):
        refused += line.refused
        print(f"{line.what}: {line.became or ('refused' if line.refused else 'skipped')}")
        for note in line.notes:
            print(f"  {note}")
    if refused:
        print(f"{refused} refused; mend what is said above and run the same command again")
        raise typer.Exit(1)


@app.command("resolve")
def resolve_(
    name: Annotated[str, typer.Argument(help="Name of a released model, ft:…")],
    out: Annotated[Path, typer.Option("--out", help="Folder in which each model gets one of its own.")],
    link: Annotated[bool, typer.Option("--link", help="Link the files instead of copying them.")] = False,
    settings: SettingsFile = None,
    folder: Folder = None,
) -> None:
    """Print a folder with a released model's judged bytes, for an inference server."""
    parts = _parts(settings, folder)
    from mithridate.service.handover import resolve, serving_command

    served = resolve(parts, name, out, link=link)
    print(served.folder)
    typer.echo(f"vLLM: {serving_command(served)}", err=True)
