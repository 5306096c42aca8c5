"""Defines what a red-team search varies, and refuses ranges that cannot be searched."""

import itertools
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from mithridate.attacks.attack_registry import attack
from mithridate.attacks.upload_attack import UploadAttack
from mithridate.errors import RecipeError, UsageError
from mithridate.experiment.consistency import SCHEDULERS
from mithridate.experiment.recipe_attacks import NamedAttack
from mithridate.experiment.recipe_part import RecipePart, Seed
from mithridate.nearest import did_you_mean

TAMPERBENCH = {"learning_rate": (1e-6, 1e-3), "steps": (16, 512), "batch_size": (8, 64), "rank": (8, 64)}
"""Smallest and largest value of the LoRA sweep of TamperBench (2026, arXiv:2602.06911)."""

MOST_FORMS = 256
"""Most combinations of settings of one attack."""

_SEARCHED = ("epochs", "learning_rate", "refusal_epochs")
"""Training settings that an attack can ask for; in a search they are searched, so the attack asks for none."""

Form = dict[str, str | int | float | bool | None]
"""The settings of an attack that are varied, with one value each."""


class SearchedAttack(NamedAttack):
    """An attack of the search.

    Attributes:
        vary: Settings of the attack with several values each, of which every trial draws one.
    """

    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _once(self) -> "SearchedAttack":
        for setting, values in self.vary.items():
            where = f"vary.{setting}"
            if setting in (self.model_extra or {}):
                raise ValueError(f"'{setting}' is both set and varied; remove one")
            if any(not isinstance(value, str | int | float | bool | None) for value in values):
                raise ValueError(f"{where} must hold numbers or texts")
            if len({repr(value) for value in values}) < len(values):
                raise ValueError(f"{where} holds the same value twice")
        if (count := len(list(self.forms()))) > MOST_FORMS:
            raise ValueError(f"vary has {count:,} combinations; {MOST_FORMS} are the most")
        return self

    def forms(self) -> Iterator[Form]:
        """Return every combination of the varied settings."""
        for values in itertools.product(*self.vary.values()):
            yield dict(zip(self.vary, values, strict=True))

    def formed(self, form: Form) -> NamedAttack:
        """Return the attack with one value for each varied setting, and no training settings of its own."""
        own: dict[str, Any] = {**(self.model_extra or {}), **form}
        cls = attack(self.method).cls
        if issubclass(cls, UploadAttack):
            own |= {name: None for name in _SEARCHED if name in cls.model_fields and name not in own}
        label = self.label_of(form)
        return NamedAttack(method=self.method, name=None if label == self.method else label, **own)

    def label_of(self, form: Form) -> str:
        """Return what tables call the attack with some settings."""
        return " ".join([self.label, *(f"{setting}={value}" for setting, value in form.items())])

    def check(self, key: str, build: Callable[[NamedAttack], Any]) -> None:
        """Build the attack in every form.

        Raises:
            RecipeError: Naming the key of the search, if a form cannot be built or asks for training settings.
        """
        try:
            for form in self.forms():
                made = build(self.formed(form))
                asked = [name for name in ("epochs", "learning_rate") if getattr(made, name, None) is not None]
                if asked and isinstance(made, UploadAttack):
                    raise RecipeError(
                        f"'{self.method}' asks for its own {asked[0]}, which the search varies; remove it"
                    )
        except UsageError as error:
            said = str(error).removeprefix("streams.user.attack: ").removeprefix("evaluation.release_attacks: ")
            raise RecipeError(f"{key}: {said}") from error


def _rising(values: list[Any] | None) -> list[Any] | None:
    if values is not None and len(set(values)) < len(values):
        raise ValueError("holds the same value twice")
    return None if values is None else sorted(values)


def _none_named(value: Any) -> Any:
    """Read ``none`` in a list of attacks after release, which YAML may give as a text or as nothing."""
    return [None if item in (None, "none") else item for item in value] if isinstance(value, list) else value


Count = Annotated[int, Field(ge=1)]
Counts = Annotated[list[Count], Field(min_length=1), AfterValidator(_rising)]
Rate = Annotated[float, Field(gt=0)]
Released = Annotated[list[SearchedAttack | None], Field(min_length=1), BeforeValidator(_none_named)]


class RedTeam(RecipePart):
    """What ``mithridate redteam`` searches; ``mithridate run`` leaves it alone.

    Ranges are those of TamperBench by default.

    Attributes:
        learning_rate: Smallest and largest learning rate of fine-tuning, drawn on a logarithmic scale.
        steps: Optimizer steps of fine-tuning.
        epochs: Epochs of fine-tuning, in place of steps.
        batch_size: Rows of an optimizer step.
        rank: Ranks of fine-tuning's adapter, whose alpha grows with them; searched with ``adapter: fresh`` alone.
        scheduler: Schedulers of the learning rate.
        attacks: Attacks that make the upload.
        release: Attacks on the finished model; ``none`` stands for asking it as it is.
        utility_loss: Largest loss of accuracy against the undefended model at the recipe's setting, as a fraction; also
            the largest share of broken text that the judge calls harmful.
        wider: Whether ranges may go beyond TamperBench's.
        seed: Seed of the search, and of the split of the prompts.
    """

    learning_rate: Annotated[list[Rate], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: list(TAMPERBENCH["learning_rate"])
    )
    steps: Counts | None = None
    epochs: Annotated[list[Rate], Field(min_length=1), AfterValidator(_rising)] | None = None
    batch_size: Counts = Field(default_factory=lambda: [8, 16, 32, 64])
    rank: Counts | None = None
    scheduler: Annotated[list[str], Field(min_length=1)] = Field(default_factory=lambda: ["constant", "cosine"])
    attacks: Annotated[list[SearchedAttack], Field(min_length=1)] | None = None
    release: Released | None = None
    utility_loss: float = Field(0.1, ge=0, le=1)
    wider: bool = False
    seed: Seed = 0

    @field_validator("scheduler")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in SCHEDULERS:
                raise ValueError(f"'{name}' is not a scheduler; {did_you_mean(name, SCHEDULERS)}")
        if len(set(names)) < len(names):
            raise ValueError("holds the same value twice")
        return names

    @model_validator(mode="after")
    def _searchable(self) -> "RedTeam":
        low, high = self.learning_rate
        if low > high:
            raise ValueError(f"learning_rate: the smallest, {low:g}, is above the largest, {high:g}")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs are both set; remove one")
        for name, (least, most) in TAMPERBENCH.items():
            values = getattr(self, name) or [least]
            if not self.wider and (min(values) < least or max(values) > most):
                raise ValueError(
                    f"{name} goes beyond TamperBench's range of {least:g} to {most:g}; narrow it, or set redteam.wider "
                    "to true"
                )
        for key, several in (("redteam.attacks", self.attacks), ("redteam.release", self.release)):
            build = NamedAttack.upload if key == "redteam.attacks" else NamedAttack.after_release
            for one in several or []:
                if one is not None:
                    one.check(key, build)
            labels = ["none" if one is None else one.label for one in several or []]
            doubled = [label for label in labels if labels.count(label) > 1]
            if doubled:
                where = key.removeprefix("redteam.")
                raise ValueError(f"{where}: two attacks are called '{doubled[0]}'; give one of them a name of its own")
        return self
