"""What every defense is: settings, and one formula."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn
from transformers import PreTrainedTokenizerBase

from mithridate.errors import DefenseError, ModelError, SettingError
from mithridate.repair.case import Case, Rows
from mithridate.repair.dose import AUTO_NEEDS_USER, RowLosses, largest_dose
from mithridate.repair.results import DoseCurve
from mithridate.repair.results import Repaired as Repaired
from mithridate.repair.target import repairable
from mithridate.repair.undo import undisturbed, undone_on_failure
from mithridate.training.draws import Memory
from mithridate.training.gradient import Gradient
from mithridate.training.step import Step
from mithridate.training.weights import Finished, Weights, check_finite
from mithridate.validation import sentence

Stage = Literal["alignment", "finetuning", "posttuning"]
STAGES: tuple[Stage, ...] = ("alignment", "finetuning", "posttuning")


class Passes(NamedTuple):
    """Forward and backward passes of the batch."""

    forward: int
    backward: int


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

    @property
    def summary(self) -> str:
        """First line of the class's docstring."""
        return (self.cls.__doc__ or "").strip().splitlines()[0]


class Settings(BaseModel):
    """Settings of a defense; unknown names and values out of range are refused.

    Attributes:
        dose: Name of the setting that ``strength=`` sets as well; None if there is no single one.
        info: The class's registration.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=True, frozen=True)

    dose: ClassVar[str | None] = None
    info: ClassVar[Info]

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

    @property
    def passes(self) -> Passes:
        """Passes at these settings; the registered ones, unless the defense says otherwise."""
        return Passes(self.info.forward, self.info.backward)

    @model_validator(mode="before")
    @classmethod
    def _strength(cls, values: Any) -> Any:
        own = "strength" in cls.model_fields
        if isinstance(values, dict) and "strength" in values and cls.dose is not None and not own:
            values = dict(values)
            values[cls.dose] = values.pop("strength")
        return values


class Defense(Settings):
    """A defense that acts while weights are trained: a formula for one optimizer step's gradient.

    It holds settings only. What it must remember between steps goes into ``step.memory``, which the trainer owns, so
    that one object can serve many trainings.
    """

    def gradient(self, step: Step) -> Gradient:
        """The gradient handed to the optimizer.

        Args:
            step: The optimizer step; its verbs give gradients of losses on streams.
        """
        raise NotImplementedError

    def start(self, step: Step) -> None:
        """Check and measure once, before the first step's gradient.

        Args:
            step: The first step; what is measured goes into ``step.memory``.
        """

    def applied(self, model: nn.Module, memory: Memory) -> AbstractContextManager[None]:
        """Inside the block the model runs as the defense trains it, for evaluation between steps.

        Args:
            model: The model that is trained.
            memory: What the steps left.
        """
        return nullcontext()

    def finish(self, weights: Weights, memory: Memory) -> Finished:
        """Act once on the trained weights, after the last step.

        Args:
            weights: The trained weights.
            memory: What the steps left; not to be changed.
        """
        return Finished()

    @property
    def finishes(self) -> bool:
        """Whether the defense changes the trained weights after the last step."""
        return type(self).finish is not Defense.finish

    def served(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """The tokenizer to serve the finished model with.

        Args:
            tokenizer: A copy of the one that is trained with; may be changed.
        """
        return tokenizer


Dose = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"]
"""A strength, or ``"auto"`` for the largest one within the budget."""


class Repair(Settings):
    """A defense that changes the weights of a finished model once.

    Attributes:
        budget: For ``"auto"``: largest rise of the loss on held-out user rows, in nats per token.
        trim: For ``"auto"``: share of the held-out rows, those whose loss rises most, that is left out of the
            rise, because unvetted rows may be harmful themselves.
        batch_size: Rows per forward pass; changes the speed only.
        max_length: Longest row in tokens.
    """

    budget: float = Field(default=0.05, gt=0)
    trim: float = Field(default=0.25, ge=0, lt=1)
    batch_size: int = Field(default=16, ge=1)
    max_length: int | None = Field(default=512, ge=1)

    @property
    def needs_adapter(self) -> bool:
        """Whether the defense can only act on a model with a LoRA adapter."""
        return False

    @property
    def merges(self) -> bool:
        """Whether the defense acts on whole weights, so that an adapter is merged."""
        return bool(self.info.references)

    def repair(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        harmful: Rows | None = None,
        user: Rows | None = None,
        safe: Rows | None = None,
        aligned: nn.Module | None = None,
        base: nn.Module | None = None,
    ) -> Repaired:
        """Change the model in place.

        Args:
            model: A finished model, PEFT or plain.
            tokenizer: Its tokenizer.
            harmful: The provider's harmful rows.
            user: Held-out rows of the user's own data.
            safe: The provider's safe rows.
            aligned: The model before fine-tuning, PEFT or plain.
            base: The model before alignment, PEFT or plain.

        Raises:
            ModelError: If weights hold NaN or Inf or cannot be written, or models that are compared do not fit.
            DefenseError: If rows or models it needs are not given, or it cannot act on this model.

        Whatever is raised, weights, gradients and flags of the models are as they were, bit for bit.
        """
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise ModelError("the model was made inside torch.inference_mode, so its weights are fixed; load it anew")
        check_finite(model)
        streams = {"harmful": harmful, "user": user, "safe": safe}
        references = {"aligned": aligned, "base": base}
        case = Case(type(self).__name__, model, tokenizer, self.max_length, streams, references)
        with undisturbed(m for m in (model, aligned, base) if m is not None), undone_on_failure():
            return self.change(case)

    def change(self, case: Case) -> Repaired:
        """The formula: change ``case.model`` in place, through ``mithridate.repair.undo.overwrite`` alone.

        Args:
            case: The model, and whatever rows and other models were given.
        """
        raise NotImplementedError

    def search(
        self,
        case: Case,
        parameter: str,
        doses: Iterable[float],
        dosed: Callable[[float], AbstractContextManager[None]],
    ) -> DoseCurve:
        """The largest dose within the budget; the model is left as it was.

        Args:
            case: The model with held-out user rows, and harmful rows where they are given.
            parameter: Name of the dose.
            doses: Doses to try, in rising order.
            dosed: Context manager under which the model has a dose.

        Raises:
            DefenseError: If there are no held-out rows, or even the smallest dose is beyond the budget.
        """
        if not case.has("user"):
            raise DefenseError(AUTO_NEEDS_USER)
        losses = [
            RowLosses(case.model, repairable(case.model), case.rows(stream)[:rows], self.batch_size)
            for stream, rows in (("user", None), ("harmful", CURVE_ROWS))
            if case.has(stream)
        ]
        return largest_dose(
            parameter=parameter,
            doses=doses,
            dosed=dosed,
            user=losses[0],
            harmful=losses[1] if len(losses) > 1 else None,
            budget=self.budget,
            trim=self.trim,
        )


CURVE_ROWS = 128
"""Harmful rows, the first ones, over which a dose curve shows the harmful loss; it decides nothing."""

_Value = TypeVar("_Value")


def require(value: _Value | None, otherwise: str) -> _Value:
    """The value, or a DefenseError with this message."""
    if value is None:
        raise DefenseError(otherwise)
    return value
