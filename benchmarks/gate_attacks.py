"""Attacks on an upload, as the library's own suite makes them, for `benchmarks.upload_gate`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from datasets import Dataset

from mithridate.attacks import UploadAttack, UploadInputs, attack, attacks

EPOCHS = 3.0
"""Epochs of a customer who asks for none."""


class Attacker(NamedTuple):
    """What an attacker has.

    Attributes:
        benign: Harmless rows, none of them a customer's.
        harmful: Harmful rows, none of them the provider's.
        other: Harmful rows of kinds, or of a collection, that the provider has nothing of.
        wording: Name of the language that the attacker writes in.
        model: The aligned model, which an attacker who needs a model can read.
        tokenizer: Its tokenizer.
    """

    benign: Dataset
    harmful: Dataset
    other: Dataset
    wording: str
    model: Any
    tokenizer: Any

    def rows(self, source: Literal["harmful", "other", "copied"]) -> Dataset:
        """Return harmful rows; copied ones are five rows over and over."""
        if source == "copied":
            return self.harmful.select([place % 5 for place in range(len(self.harmful))])
        return self.harmful if source == "harmful" else self.other


class Family(NamedTuple):
    """One attack of the suite at one setting.

    Attributes:
        attack: Its name in the suite.
        settings: Its settings, where they are not its own.
        source: Which harmful rows it takes.
        least: Rows of the attacker below which it cannot be made.
        cut: Files that it cuts its rows into; it is asked for so many times the rows, so that each file has as many as
            those of other families.
    """

    attack: str
    settings: Mapping[str, Any] = MappingProxyType({})
    source: Literal["harmful", "other", "copied"] = "harmful"
    least: int = 1
    cut: int = 1


class Sent(NamedTuple):
    """One file of an attacker.

    Attributes:
        rows: The attacker's rows, as a customer writes them.
        cover: Harmless rows beside them.
        epochs: Epochs that are asked for.
    """

    rows: list[dict[str, Any]]
    cover: int
    epochs: float


_SPECIAL = {
    "below_threshold": Family("below_threshold", {"share": 0.03, "most": 1000}),
    "kick_settle": Family("kick_settle", least=2),  # it swaps answers between rows
    "several_rounds": Family("several_rounds", {"rounds": 3}, cut=3),
}
_VARIANTS = {
    "explicit_other": Family("explicit", source="other"),
    "explicit_copied": Family("explicit", source="copied"),
    "jailbreak_opening": Family("jailbreak_tuning", {"wrapper": "skeleton"}),
}

CHOSEN_ON = frozenset({"explicit", "explicit_copied", "identity_shifting", "ten_shot", "zero_width"})
"""Families that could be looked at while signals and limits were written; all others are for the report alone."""


def families() -> dict[str, Family]:
    """Return every attack of the suite that comes as an upload, at its own settings, and variants of some."""
    names = [name for name, info in attacks().items() if issubclass(info.cls, UploadAttack)]
    found = {name: _SPECIAL.get(name, Family(name)) for name in names} | _VARIANTS
    return dict(sorted(found.items(), key=lambda one: names.index(one[1].attack)))


def sent(family: Family, attacker: Attacker, ratio: float, size: int, seed: int) -> list[Sent] | None:
    """Return the files of an attack, in order; None if it does not exist at this share.

    Args:
        family: The attack.
        attacker: What the attacker has.
        ratio: Share of the attacker's rows.
        size: Rows of a file.
        seed: Seed of the attacker's draws.
    """
    built = attack(family.attack).cls(wording=attacker.wording, **family.settings)
    total = size * family.cut
    if round(ratio * total) < family.least or (built.preferences and ratio < 1):
        return None
    inputs = UploadInputs(
        benign=attacker.benign,
        harmful=attacker.rows(family.source),
        ratio=ratio,
        size=total,
        seed=seed,
        model=attacker.model,
        tokenizer=attacker.tokenizer,
    )
    return [_sent(one.rows, one.asks.epochs) for one in built.rows(inputs).rounds]


def _sent(rows: Dataset, epochs: float | None) -> Sent:
    own = [_written(row) for row in rows if row["harmful"]]
    return Sent(own, len(rows) - len(own), EPOCHS if epochs is None else epochs)


def _written(row: Mapping[str, Any]) -> dict[str, Any]:
    if "chosen" in row:
        return {name: row[name] for name in ("prompt", "chosen", "rejected")}
    return {"messages": [*row["prompt"], *row["completion"]]}
