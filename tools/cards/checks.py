"""The four checks of a card, as of an acceptance card (arXiv 2605.10575): what a skeptic asks of a measured effect."""

import datetime
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]

UNKNOWN = "not measured"
"""How the reason of every check without an answer begins."""


class Evidence(BaseModel):
    """One run that a check's answer rests on.

    Attributes:
        what: What was compared.
        figures: Points of percent, or norms, by name.
        command: The command that produced them.
        seeds: Seeds of the attack.
        results: Path of the committed results file, from the repository's root.
    """

    model_config = ConfigDict(extra="forbid")

    what: Text
    figures: dict[str, Finite] = Field(min_length=1)
    command: Text
    date: datetime.date
    seeds: list[int] = Field(min_length=1)
    results: Text


class Check(BaseModel):
    """One check.

    Attributes:
        passes: The answer; None where it was not measured.
        why: The reason for it.
        evidence: What it rests on.
    """

    model_config = ConfigDict(extra="forbid")

    passes: bool | None = None
    why: Text = f"{UNKNOWN}."
    evidence: list[Evidence] = []

    @model_validator(mode="after")
    def _grounded(self) -> Self:
        if (self.passes is None) != self.why.startswith(UNKNOWN):
            raise ValueError(f"a check has no answer if, and only if, it was '{UNKNOWN}'; got '{self.why}'")
        if self.passes is not None and not self.evidence:
            raise ValueError("a check that was answered needs evidence; write it with `python -m tools.measure_checks`")
        return self


class Checks(BaseModel):
    """The four checks.

    Attributes:
        paired_bootstrap: The harmful score is below the undefended one's, paired by seed and prompt.
        fresh_prompts: So it is on harmful prompts that no setting was chosen on.
        mechanism: The method's term is active, and without it, or with a random change as large, the effect is gone.
        transfer: The effect is there under an attack and on a task that no setting was chosen on.
    """

    model_config = ConfigDict(extra="forbid")

    paired_bootstrap: Check = Check()
    fresh_prompts: Check = Check()
    mechanism: Check = Check()
    transfer: Check = Check()

    @property
    def passed(self) -> int:
        """How many of the four are passed."""
        return sum(check.passes is True for _, check in named(self))


class Named(NamedTuple):
    """A check with its name in words."""

    name: str
    check: Check


def named(checks: Checks) -> list[Named]:
    """Return the four checks in their order."""
    return [Named(name.replace("_", " "), getattr(checks, name)) for name in type(checks).model_fields]
