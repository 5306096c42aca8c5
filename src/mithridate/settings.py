"""What all defenses and attacks have in common: settings that cannot change, and a registration."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mithridate.errors import SettingError
from mithridate.validation import sentence

Stage = Literal["alignment", "finetuning", "posttuning"]
STAGES: tuple[Stage, ...] = ("alignment", "finetuning", "posttuning")


class Passes(NamedTuple):
    """Forward and backward passes of the batch; an average where steps differ."""

    # Whole numbers first: where a JSON of ours says 3 it must not become 3.0.
    forward: int | float
    backward: int | float


@dataclass(frozen=True)
class Info:
    """One registration.

    Attributes:
        name: Name in recipes and on the command line.
        cls: The class that holds the formula.
        stages: Where the defense can act.
        paper: Short citation.
        streams: Streams needed beside the one that is trained on.
        forward: Forward passes at default settings, per optimizer step when training, over the rows of its stream
            when repairing.
        backward: Backward passes, likewise.
        off: Settings at which the defense does nothing, so that plain SFT is left.
        references: Other models needed: ``base`` (before alignment) and ``aligned`` (before fine-tuning) to repair;
            ``start`` (the weights the stage started from) to train.
        extra: What it costs beyond these passes, in words; empty if nothing.
        vectors: Vectors over the trainable weights that a training step holds at once beside the weights, their
            gradient and the optimizer's state.
        precise: Whether passes beyond the first run in float32 also where the model trains in half precision.
    """

    name: str
    cls: "type[Settings]"
    stages: tuple[Stage, ...]
    paper: str
    streams: tuple[str, ...]
    forward: int
    backward: int
    off: dict[str, Any]
    references: tuple[str, ...] = ()
    extra: str = ""
    vectors: int = 0
    precise: bool = False

    @property
    def summary(self) -> str:
        """First line of the class's docstring."""
        return (self.cls.__doc__ or "").strip().splitlines()[0]


class FrozenSettings(BaseModel):
    """Settings that cannot change; unknown names and values out of range are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=True, frozen=True)

    if not TYPE_CHECKING:  # type checkers make the signature from the fields, so that they refuse a wrong setting

        def __init__(self, **values: Any) -> None:
            """Check the settings.

            Raises:
                SettingError: Naming the one at fault, with its nearest valid name or its range.
            """
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise SettingError(type(self).__name__, sentence(error, type(self))) from error


class Settings(FrozenSettings):
    """Settings of a defense.

    Attributes:
        dose: Name of the setting that ``strength=`` sets as well; None if there is no single one.
        info: The class's registration.
    """

    dose: ClassVar[str | None] = None
    info: ClassVar[Info]

    @property
    def passes(self) -> Passes:
        """Passes at these settings; the registered ones, unless the defense says otherwise."""
        return Passes(self.info.forward, self.info.backward)

    @property
    def vectors(self) -> int:
        """Vectors held at these settings; the registered ones, unless the defense says otherwise."""
        return self.info.vectors

    @property
    def trains_with(self) -> str | None:
        """Name of the alignment-stage defense that it trains with; None where there is none inside."""
        return None

    @property
    def streams(self) -> tuple[str, ...]:
        """Streams needed at these settings; the registered ones, unless the defense says otherwise."""
        return self.info.streams

    @model_validator(mode="before")
    @classmethod
    def _strength(cls, values: Any) -> Any:
        own = "strength" in cls.model_fields
        if isinstance(values, dict) and "strength" in values and cls.dose is not None and not own:
            values = dict(values)
            values[cls.dose] = values.pop("strength")
        return values
