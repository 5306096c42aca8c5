"""Brings a database to the tables of this version, and back."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from mithridate.errors import ServiceError
from mithridate.service.database.opened import Database
from mithridate.service.database.outages import DatabaseDamaged, fault_of, refusing_damage
from mithridate.service.database.tables import METADATA

_FOLDER = Path(__file__).parent / "migrations"


def newest() -> str:
    """Return the newest revision that this version knows."""
    head = ScriptDirectory(str(_FOLDER)).get_current_head()
    assert head is not None  # the folder holds at least one; for type checkers
    return head


def revision_of(database: Database) -> str | None:
    """Return the revision of a database; None where it has no tables yet.

    Raises:
        ServiceError: If it is damaged or does not answer.
    """
    try:
        with refusing_damage(), database.read() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError as error:
        # The driver's own first line; what follows it may hold the address, and in it a password.
        raise ServiceError(f"the database does not answer: {fault_of(error)}; check the setting `database`") from None


def migrate(database: Database, revision: str = "head") -> None:
    """Bring a database up or down to a revision.

    Args:
        database: The database.
        revision: Revision to go to; ``base`` drops every table.
    """
    down = revision == "base" or (revision != "head" and _is_older(revision, revision_of(database)))
    # One transaction for all steps: an interrupted migration leaves the tables as they were, in SQLite too.
    with database.write() as connection:
        config = Config()
        config.set_main_option("script_location", str(_FOLDER))
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


def require_newest(database: Database) -> None:
    """Refuse a database of another version, or without a table of this one.

    Raises:
        ServiceError: If it is older or newer, or damaged.
    """
    found, wanted = revision_of(database), newest()
    if found == wanted:
        _require_tables(database)
        return
    said = f"the database has revision {found or 'none'} and this version needs {wanted}"
    if found is None:
        raise ServiceError(f"{said}; run mithridate service migrate")
    if found not in _known():
        raise ServiceError(f"{said}; install the version of Mithridate that made it, or a newer one")
    # This version copies no older tables: a backup takes the one that made them.
    raise ServiceError(
        f"{said}; back it up with the version of Mithridate that you had before, then run mithridate service migrate"
    )


def _require_tables(database: Database) -> None:
    with refusing_damage(), database.read() as connection:
        missing = METADATA.tables.keys() - set(inspect(connection).get_table_names())
    if missing:
        raise DatabaseDamaged(
            f"the database lacks the table {min(missing)}; restore a backup into an empty folder with mithridate "
            "service restore"
        )


def _known() -> list[str]:
    """Return every revision that this version knows, the newest first."""
    return [script.revision for script in ScriptDirectory(str(_FOLDER)).walk_revisions()]


def _is_older(revision: str, current: str | None) -> bool:
    known = _known()
    if revision not in known:
        raise ServiceError(f"there is no revision '{revision}'; there are {', '.join(reversed(known))}")
    return current in known and known.index(revision) > known.index(current)
