"""API keys: 256 random bits, of which only a hash is kept."""

import hashlib
import hmac
import re
import secrets
from typing import Literal, NamedTuple, get_args

from sqlalchemy import Connection, insert, select, update

from mithridate.errors import UsageError
from mithridate.service.contract.object_ids import new_id, now
from mithridate.service.database.tables import KEYS, PROJECTS

Role = Literal["read", "write", "admin"]
"""What a key may do: read, also change, also see the audit log and handle keys."""

_FORM = re.compile(r"mk-[A-Za-z0-9_-]{43}")


class Caller(NamedTuple):
    """Who asks.

    Attributes:
        project: The project's id.
        key: The key's id.
        role: What it may do.
    """

    project: str
    key: str
    role: Role


class NewKey(NamedTuple):
    """A key that was just made; its secret is told here and nowhere else."""

    id: str
    secret: str


def create_key(connection: Connection, project: str, name: str, role: str) -> NewKey:
    """Make a key, and its project where there is none of that name.

    Raises:
        UsageError: If the name or the role cannot be used.
    """
    if role not in get_args(Role):
        raise UsageError(f"role '{role}' must be one of {', '.join(get_args(Role))}")
    for what, said in (("project", project), ("name", name)):
        if not re.fullmatch(r"[\w .@-]{1,64}", said):
            raise UsageError(f"{what} must be 1 to 64 letters, digits, spaces or . @ _ -")
    made = NewKey(new_id("key"), f"mk-{secrets.token_urlsafe(32)}")
    connection.execute(
        insert(KEYS).values(
            id=made.id,
            project_id=project_id(connection, project),
            name=name,
            sha256=_hashed(made.secret),
            role=role,
            created_at=now(),
        )
    )
    return made


def project_id(connection: Connection, name: str) -> str:
    """Return the id of a project, which is made where there is none of that name."""
    found = connection.execute(select(PROJECTS.c.id).where(PROJECTS.c.name == name)).scalar_one_or_none()
    if found is None:
        found = new_id("project")
        connection.execute(insert(PROJECTS).values(id=found, name=name, created_at=now()))
    return str(found)


def revoke_key(connection: Connection, key: str) -> None:
    """Make a key useless from now on.

    Raises:
        UsageError: If there is no such key, or it is revoked already.
    """
    query = update(KEYS).where(KEYS.c.id == key, KEYS.c.revoked_at.is_(None)).values(revoked_at=now())
    if connection.execute(query).rowcount != 1:
        raise UsageError(f"there is no key '{key}' in use; see mithridate service key list")


def caller_of(connection: Connection, secret: str) -> Caller | None:
    """Return who a key belongs to; None where it is unknown or revoked."""
    if not _FORM.fullmatch(secret):
        return None
    # Looked up by its hash: how long that takes tells nothing of the key itself. 256 random bits need no slow hash.
    hashed = _hashed(secret)
    query = select(KEYS).where(KEYS.c.sha256 == hashed, KEYS.c.revoked_at.is_(None))
    row = connection.execute(query).one_or_none()
    if row is None or not hmac.compare_digest(row.sha256, hashed):
        return None
    return Caller(row.project_id, row.id, row.role)


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def listed_keys(connection: Connection) -> list[str]:
    """Return every key in one line: id, project, role, name and whether it is revoked."""
    query = select(KEYS, PROJECTS.c.name.label("project")).join(PROJECTS).order_by(KEYS.c.created_at)
    return [
        f"{row.id}  {row.project}  {row.role}  {row.name}" + ("" if row.revoked_at is None else "  revoked")
        for row in connection.execute(query)
    ]
