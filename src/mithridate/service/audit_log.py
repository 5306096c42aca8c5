"""Who did what: a log that is only added to, each entry sealed together with all before it."""

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, insert, select, update

from mithridate.errors import ServiceError, UsageError
from mithridate.service.database.opened import Database
from mithridate.service.database.tables import AUDIT, AUDIT_HEAD

_START = "0" * 64  # stands before the first entry
KEY_FILE = "audit.key"


class AuditEntry(NamedTuple):
    """One entry.

    Attributes:
        at: When.
        actor: The key's id, ``worker …`` or ``operator``.
        action: What was done, such as ``job.create``.
        target: Id of the object.
        detail: What else is known, as JSON.
    """

    at: float
    actor: str
    action: str
    target: str
    detail: str


class _Mark(NamedTuple):
    """An entry as it was known earlier."""

    seq: int
    hash: str


class AuditLog:
    """The log, in the database; its key lies outside, so that whoever can write the database alone forges no entry.

    Whoever can write the database can still cut off the end: without the last entries, and with the head set to the one
    before them, the chain is whole. So can a restored backup. Only a `mark` that was kept elsewhere shows it.

    Args:
        folder: Folder of the key, which is made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._key = _key(folder / KEY_FILE)

    def add(self, connection: Connection, actor: str, action: str, target: str, **detail: Any) -> None:
        """Add an entry within the transaction that does what it tells, so that there is neither without the other."""
        head = connection.execute(select(AUDIT_HEAD).with_for_update()).one_or_none()
        seq, before = (0, _START) if head is None else (head.seq, head.hash)
        entry = AuditEntry(time.time(), actor, action, target, json.dumps(detail, sort_keys=True))
        sealed = self._seal(seq + 1, before, entry)
        connection.execute(insert(AUDIT).values(seq=seq + 1, hash=sealed, **entry._asdict()))
        if head is None:
            connection.execute(insert(AUDIT_HEAD).values(id=1, seq=1, hash=sealed))
        else:
            connection.execute(update(AUDIT_HEAD).values(seq=seq + 1, hash=sealed))

    def mark(self, database: Database) -> str:
        """Return number and hash of the last entry, to be kept where nobody who can write the database can write."""
        with database.read() as connection:
            head = connection.execute(select(AUDIT_HEAD)).one_or_none()
        return f"0:{_START}" if head is None else f"{head.seq}:{head.hash}"

    def verify(self, database: Database, known: str | None = None) -> int:
        """Return the number of entries after checking each of them.

        Args:
            database: The database.
            known: An earlier `mark`, whose entry must still be there.

        Raises:
            UsageError: If that is none.
            ServiceError: Naming the first entry that was changed, removed or moved.
        """
        kept = _read_mark(known)
        before, seq = _START, 0
        with database.read() as connection:
            for row in connection.execute(select(AUDIT).order_by(AUDIT.c.seq)):
                if row.seq != seq + 1:
                    raise ServiceError(f"audit log: entry {seq + 1} is missing; restore the database from a backup")
                seq, before = row.seq, self._checked(row, before)
                if kept is not None and seq == kept.seq and not hmac.compare_digest(before, kept.hash):
                    raise ServiceError(f"audit log: entry {seq} is another than the one known; the end was replaced")
            head = connection.execute(select(AUDIT_HEAD)).one_or_none()
        if (seq, before) != (0, _START) and head is None:
            raise ServiceError("audit log: its head is missing; restore the database from a backup")
        if head is not None and (head.seq, head.hash) != (seq, before):
            raise ServiceError(f"audit log: entries after {seq} are missing; restore the database from a backup")
        if kept is not None and seq < kept.seq:
            raise ServiceError(f"audit log: entries {seq + 1} to {kept.seq} were cut off; restore a later backup")
        return seq

    def _checked(self, row: Row[Any], before: str) -> str:
        sealed = self._seal(row.seq, before, AuditEntry(row.at, row.actor, row.action, row.target, row.detail))
        if not hmac.compare_digest(sealed, str(row.hash)):
            raise ServiceError(f"audit log: entry {row.seq} was altered; restore the database from a backup")
        return sealed

    def _seal(self, seq: int, before: str, entry: AuditEntry) -> str:
        # As JSON, in which no two different entries read alike.
        return hmac.new(self._key, json.dumps([seq, before, *entry]).encode(), hashlib.sha256).hexdigest()


def _read_mark(text: str | None) -> _Mark | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text.strip())
    if found is None:
        raise UsageError("known must be NUMBER:HASH, as an earlier mithridate service verify has printed it")
    return _Mark(int(found[1]), found[2])


def _key(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Made whole under another name first: two processes may start at the same time.
        made = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        os.link(made, path)
    except FileExistsError:
        pass
    finally:
        made.unlink(missing_ok=True)
    return bytes.fromhex(path.read_text())
