"""The service's log: one JSON object on each line, whatever a message holds."""

import json
import logging
import re
import sys

_KEY = re.compile(r"mk-[A-Za-z0-9_-]{20,}|whsec_[A-Za-z0-9+/=]+")
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """Writes records as JSON, in which no text can begin a line of its own, and no key stands."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        said = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _USUAL},
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return _KEY.sub("[key]", json.dumps(said, default=str))


def log_as_json() -> None:
    """Have everything that is logged written to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("alembic").setLevel(logging.WARNING)
