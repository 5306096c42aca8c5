"""The four checks of every method beside each other; a part of docs/which-defense.md."""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from mithridate.settings import Info
from tools.cards import Card, Checks, named
from tools.method_pages import ANSWERS

ALL = 4
LEFT = ("controls", "attack", "task")
"""Runs whose harmful scores are told, by the names of their results files."""


def table(infos: Mapping[str, Info], cards: Mapping[str, Card], link: Callable[[Info], str]) -> dict[str, Any]:
    """Return the rows, those that pass most first, and how many methods pass all, in words."""
    asked = {name: cards[name].checks for name in infos if name != "sft"}
    order = sorted(asked, key=lambda name: -asked[name].passed)
    rows = [
        [
            link(infos[name]),
            *(ANSWERS[check.passes] for _, check in named(asked[name])),
            f"{asked[name].passed} of {ALL}",
            *(_figure(asked[name], run, "harmful score") or "–" for run in LEFT),
        ]
        for name in order
    ]
    whole = [link(infos[name]) for name in order if asked[name].passed == ALL]
    open_ = sum(any(check.passes is None for _, check in named(checks)) for checks in asked.values())
    told = f"**{len(whole)} of {len(asked)} methods pass all four**" + (f": {', '.join(whole)}." if whole else ".")
    return {
        "rows": rows,
        "sentence": told + (f" For {open_}, a check is not measured yet." if open_ else ""),
        "undefended": [
            next(filter(None, (_figure(one, run, "undefended") for one in asked.values())), "–") for run in LEFT
        ],
    }


def _figure(checks: Checks, run: str, figure: str) -> str | None:
    """Return a harmful score of one of the runs in percent, from the check that it answered; None if none did."""
    evidence = [one for _, check in named(checks) for one in check.evidence]
    found = [one.figures[figure] for one in evidence if _run_of(one.results) == run and figure in one.figures]
    return f"{found[0]:.1f}" if found else None


def _run_of(results: str) -> str:
    """Return the run that a file of results is of; what follows a dash tells for which methods."""
    return PurePosixPath(results).stem.partition("-")[0]
