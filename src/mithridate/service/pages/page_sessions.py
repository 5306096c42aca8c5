"""Sessions of people who have signed in with an API key; a browser holds a secret of its own, and never the key."""

import hashlib
import hmac
import secrets
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select

from mithridate.service.contract.object_ids import now
from mithridate.service.database.tables import KEYS, PAGE_SESSIONS, PROJECTS
from mithridate.service.keys.api_keys import Caller

LIFETIME = 8 * 3600  # seconds; a working day


class Visitor(NamedTuple):
    """Who looks at a page.

    Attributes:
        caller: The key that was used to sign in.
        key_name: What that key is for.
        project: Name of its project.
        form_token: Proves that a form came from one of our pages in this session.
    """

    caller: Caller
    key_name: str
    project: str
    form_token: str

    @property
    def may_write(self) -> bool:
        """Whether they may change anything."""
        return self.caller.role != "read"

    @property
    def is_operator(self) -> bool:
        """Whether they may see what is the operator's."""
        return self.caller.role == "admin"


def begin_session(connection: Connection, caller: Caller) -> str:
    """Begin a session and return its secret, of which only a hash is kept."""
    connection.execute(delete(PAGE_SESSIONS).where(PAGE_SESSIONS.c.expires_at <= now()))
    secret = secrets.token_urlsafe(32)
    values = {"sha256": _hashed(secret), "key_id": caller.key, "expires_at": now() + LIFETIME}
    connection.execute(insert(PAGE_SESSIONS).values(**values))
    return secret


def visitor_of(connection: Connection, secret: str) -> Visitor | None:
    """Return whose session it is; None where it is unknown or over, or its key was revoked meanwhile."""
    query = (
        select(KEYS, PROJECTS.c.name.label("project"))
        .join(PAGE_SESSIONS, PAGE_SESSIONS.c.key_id == KEYS.c.id)
        .join(PROJECTS, PROJECTS.c.id == KEYS.c.project_id)
        .where(
            PAGE_SESSIONS.c.sha256 == _hashed(secret),
            PAGE_SESSIONS.c.expires_at > now(),
            KEYS.c.revoked_at.is_(None),
        )
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return Visitor(Caller(row.project_id, row.id, row.role), row.name, row.project, _form_token(secret))


def end_session(connection: Connection, secret: str) -> None:
    """End a session, if there is one."""
    connection.execute(delete(PAGE_SESSIONS).where(PAGE_SESSIONS.c.sha256 == _hashed(secret)))


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _form_token(secret: str) -> str:
    # Stands in pages; from it nobody finds the session's secret, which stands in the cookie alone.
    return hmac.new(secret.encode(), b"form", hashlib.sha256).hexdigest()
