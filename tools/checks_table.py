"""The four checks of every method beside each other; a part of docs/which-defense.md."""

from collections.abc import Callable, Mapping
from typing import Any

from mithridate.settings import Info
from tools.cards import Card, named
from tools.method_pages import ANSWERS

ALL = 4


def table(infos: Mapping[str, Info], cards: Mapping[str, Card], link: Callable[[Info], str]) -> dict[str, Any]:
    """Return the rows, those that pass most first, and how many methods pass all, in words."""
    asked = {name: cards[name].checks for name in infos if name != "sft"}
    order = sorted(asked, key=lambda name: -asked[name].passed)
    rows = [
        [
            link(infos[name]),
            *(ANSWERS[check.passes] for _, check in named(asked[name])),
            f"{asked[name].passed} of {ALL}",
        ]
        for name in order
    ]
    whole = [link(infos[name]) for name in order if asked[name].passed == ALL]
    open_ = sum(any(check.passes is None for _, check in named(checks)) for checks in asked.values())
    told = f"**{len(whole)} of {len(asked)} methods pass all four**" + (f": {', '.join(whole)}." if whole else ".")
    return {"rows": rows, "sentence": told + (f" For {open_}, a check is not measured yet." if open_ else "")}
