"""The states of a job, and which may follow which."""

from typing import Literal

JobState = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
"""States that a job never leaves."""

HELD = frozenset({"validating_files", "queued", "running"})
"""States in which a worker may hold a job."""

EDGES: dict[str, frozenset[str]] = {
    "validating_files": frozenset({"queued", "paused", "failed", "cancelled"}),
    # Back from running to queued: its worker was lost or shut down, and another one goes on.
    "queued": frozenset({"running", "paused", "failed", "cancelled"}),
    "running": frozenset({"queued", "paused", "succeeded", "failed", "cancelled"}),
    "paused": frozenset({"queued", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
"""States that may follow a state."""

UNFINISHED = frozenset(EDGES) - TERMINAL
"""States that a job leaves in time."""


def before(state: str) -> list[str]:
    """Return the states that a state may follow."""
    return sorted(one for one, then in EDGES.items() if state in then)
