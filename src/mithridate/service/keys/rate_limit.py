"""Holds each key to so many requests a minute."""

import threading
import time
from collections import OrderedDict
from typing import NamedTuple

_REMEMBERED = 10_000  # keys; the one that was seen longest ago is forgotten first


class _Bucket(NamedTuple):
    """What a key has left, and when that was."""

    left: float
    at: float


class RateLimit:
    """A bucket per key that fills steadily and is emptied by requests.

    Args:
        per_minute: Requests a minute; as many may come at once after a quiet minute.
    """

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str) -> float:
        """Take one request; return 0 where it is allowed, or else the seconds to wait."""
        rate = self._most / 60
        with self._lock:
            now = time.monotonic()
            bucket = self._buckets.pop(key, _Bucket(self._most, now))
            left = min(self._most, bucket.left + rate * (now - bucket.at))
            allowed = left >= 1
            self._buckets[key] = _Bucket(left - allowed, now)
            if len(self._buckets) > _REMEMBERED:
                self._buckets.popitem(last=False)
        return 0 if allowed else (1 - left) / rate
