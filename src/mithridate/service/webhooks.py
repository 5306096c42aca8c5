"""Tells the addresses that the operator has named about ended jobs, signed as the Standard Webhooks have it."""

import base64
import hashlib
import hmac
import logging
import secrets
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy import Connection, Row, insert, select, update

from mithridate.certificates import certificates
from mithridate.errors import UsageError
from mithridate.service.contract.object_ids import new_id, now
from mithridate.service.database.tables import DELIVERIES, WEBHOOKS
from mithridate.service.keys.api_keys import project_id
from mithridate.service.service_parts import ServiceParts

log = logging.getLogger(__name__)

_PREFIX = "whsec_"
WAITS = (5, 30, 120, 600, 3600, 4 * 3600, 24 * 3600)
"""Seconds before each further try; after the last the message is given up."""
_PATIENCE = 10  # seconds for one address


def add_webhook(connection: Connection, project: str, url: str) -> tuple[str, str]:
    """Name an address for a project's events, and return its id and the secret of its signatures.

    Only an operator does this: an address that a customer could name would be a way into the operator's network.

    Raises:
        UsageError: If it is no http address.
    """
    if not _is_address(url):
        raise UsageError(f"'{url}' is no address such as https://example.org/hook")
    name, secret = new_id("webhook"), _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    values = {"id": name, "project_id": project_id(connection, project), "url": url, "secret": secret}
    connection.execute(insert(WEBHOOKS).values(**values, created_at=now()))
    return name, secret


def _is_address(url: str) -> bool:
    try:
        return httpx.URL(url).scheme in ("http", "https") and bool(urlsplit(url).hostname and httpx.URL(url).host)
    except (httpx.InvalidURL, ValueError):  # the second of names that no machine can have
        return False


def signature(secret: str, name: str, at: int, body: str) -> str:
    """Return the signature of a message: HMAC-SHA256 of its id, its time and its body, in base64."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    signed = hmac.new(key, f"{name}.{at}.{body}".encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode()


def deliver_due(parts: ServiceParts, client: httpx.Client) -> int:
    """Send what is due, and return how many messages were taken by their addresses.

    A message may come twice, after an answer that was lost; its id is the same then.
    """
    with parts.database.read() as connection:
        due = connection.execute(
            select(DELIVERIES, WEBHOOKS.c.url, WEBHOOKS.c.secret)
            .join(WEBHOOKS, WEBHOOKS.c.id == DELIVERIES.c.webhook_id)
            .where(DELIVERIES.c.delivered_at.is_(None), DELIVERIES.c.failed_at.is_(None))
            .where(DELIVERIES.c.next_at <= now())
            .order_by(DELIVERIES.c.seq)
            .limit(100)
        ).all()
    return sum(_tried(parts, client, row) for row in due)


def _tried(parts: ServiceParts, client: httpx.Client, row: Row[Any]) -> bool:
    """Send one message, and return whether it was taken."""
    last = row.attempts >= len(WAITS)
    # Counted before it is sent: another server that finds the same message due then leaves it alone.
    values = {"attempts": row.attempts + 1, "next_at": now() + (_PATIENCE if last else WAITS[row.attempts])}
    same = (DELIVERIES.c.id == row.id) & (DELIVERIES.c.attempts == row.attempts)
    with parts.database.write() as connection:
        if connection.execute(update(DELIVERIES).where(same).values(**values)).rowcount != 1:
            return False
    taken = _sent(client, row)
    if taken or last:
        if not taken:
            log.error("webhook given up", extra={"delivery": row.id, "webhook": row.webhook_id})
        with parts.database.write() as connection:
            ended = {"delivered_at" if taken else "failed_at": now()}
            connection.execute(update(DELIVERIES).where(DELIVERIES.c.id == row.id).values(**ended))
    return taken


def _sent(client: httpx.Client, row: Row[Any]) -> bool:
    at = int(time.time())
    headers = {
        "content-type": "application/json",
        "webhook-id": row.id,
        "webhook-timestamp": str(at),
        "webhook-signature": signature(row.secret, row.id, at, row.body),
    }
    try:
        answer = client.post(row.url, content=row.body, headers=headers, timeout=_PATIENCE, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        log.warning("webhook not reached", extra={"delivery": row.id, "reason": type(error).__name__})
        return False
    return answer.is_success


def deliver_until(parts: ServiceParts, stop: threading.Event) -> None:
    """Send messages as they become due, until told to stop."""
    with httpx.Client(verify=certificates()) as client:
        while not stop.wait(parts.settings.leases.poll):
            try:
                deliver_due(parts, client)
            except Exception:
                log.exception("webhooks not delivered; tried again")
