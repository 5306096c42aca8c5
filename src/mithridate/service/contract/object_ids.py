"""Names of objects: opaque, and never anything that a customer gave."""

import re
import secrets
import string
import time

_LETTERS = string.ascii_letters + string.digits
_LENGTH = 24  # 24 of 62 letters are 142 bits, so that ids are neither guessed nor drawn twice

KINDS = {
    "file": "file-",
    "upload": "upload_",
    "part": "part_",
    "job": "ftjob-",
    "event": "ftevent-",
    "checkpoint": "ftckpt_",
    "permission": "cp_",
    "project": "proj_",
    "key": "key_",
    "webhook": "wh_",
    "delivery": "evt_",
}
"""Beginning of an id by the kind of object; OpenAI's own where it has one."""


def new_id(kind: str) -> str:
    """Return a new id of one kind of object."""
    return KINDS[kind] + "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


def is_id(text: str, kind: str) -> bool:
    """Return whether a text has the form of an id; whatever has not is looked up nowhere."""
    return re.fullmatch(re.escape(KINDS[kind]) + rf"[A-Za-z0-9]{{{_LENGTH}}}", text) is not None


def model_name(base: str, organization: str, suffix: str | None, job: str) -> str:
    """Return the name of a tuned model, ``ft:{base}:{organization}:{suffix}:{id}``.

    Args:
        base: Name of the model that was tuned.
        organization: The operator's.
        suffix: What the customer asked for; letters other than those of names become hyphens.
        job: The job's id, whose last eight letters make the name the job's own.
    """
    said = re.sub(r"[^a-z0-9-]+", "-", (suffix or "").lower()).strip("-")
    return f"ft:{base}:{organization}:{said}:{job[-8:]}"


def now() -> int:
    """Return the time in whole seconds, as the contract has it."""
    return int(time.time())
