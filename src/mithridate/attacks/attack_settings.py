"""What all attacks have in common: settings that cannot change, a wording, and a registration."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from mithridate.attacks.wording import Wording, WordingChoice
from mithridate.settings import FrozenSettings

Family = Literal["explicit", "harmless-looking", "encoded", "adaptive", "after release"]
FAMILIES: tuple[Family, ...] = get_args(Family)

Need = Literal["benign", "harmful", "model"]
NEEDS: dict[Need, str] = {
    "benign": "harmless rows",
    "harmful": "the attacker's harmful rows",
    "model": "a model that the attacker can read, with its tokenizer",
}
"""What an attack can need, and what it is called in messages."""


@dataclass(frozen=True)
class AttackInfo:
    """One registration.

    Attributes:
        name: Name in recipes and on the command line.
        cls: The class that holds the attack; its fields are the settings.
        family: What the attack hides behind.
        paper: Short citation.
        needs: What the attacker must have.
        evades: Which defense or gate does not see it, and why.
        constants: The paper's settings; those that a class has as a field are its defaults.
    """

    name: str
    cls: type[Any]
    family: Family
    paper: str
    needs: tuple[Need, ...]
    evades: str
    constants: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """First line of the class's docstring."""
        return (self.cls.__doc__ or "").strip().splitlines()[0]


class AttackSettings(FrozenSettings):
    """Settings of an attack.

    Attributes:
        wording: The attacker's sentences: ``english``, ``miniature`` (the embedded world's language), or the sentences
            that differ from the English ones.
        info: The class's registration.
    """

    info: ClassVar[AttackInfo]

    wording: WordingChoice = Wording()

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the attack needs at these settings; what is registered, unless the attack says otherwise."""
        return self.info.needs
