"""What a defense is that acts while weights are trained: a formula for one optimizer step's gradient."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import model_validator
from torch import nn
from transformers import PreTrainedTokenizerBase

import mithridate
from mithridate.errors import DefenseError, Diverged, UsageError
from mithridate.nearest import nearest
from mithridate.settings import Settings
from mithridate.training.gradient import Gradient
from mithridate.training.step import Step
from mithridate.training.step_rows import Memory
from mithridate.training.trainable_weights import Weights


class Rescalable(Protocol):
    """A change of the weights whose scale can be set anew later.

    Attributes:
        scale: Present scale.
    """

    scale: float

    def apply(self, model: nn.Module, scale: float) -> object:
        """Set the model's weights to another scale of the change."""

    def save(self, path: Path) -> None:
        """Write it to a file."""


@dataclass(frozen=True)
class Finished:
    """What a defense did to the trained weights after the last step.

    Attributes:
        figures: Figures that prove that it acted.
        displacement: What it added, so that its scale can be changed later; None where it adds nothing.
    """

    figures: dict[str, float] = field(default_factory=dict)
    displacement: Rescalable | None = None


class StreamPasses(NamedTuple):
    """Passes of an optimizer step over the rows of one stream.

    Attributes:
        stream: Name of the stream.
        forward: Forward passes, on average over steps.
        backward: Backward passes, likewise.
        refusals: Whether refusals stand in the place of the rows' own completions.
        rows: Rows they are over; None for the stream's batch.
        precise: Whether they are in float32 also where the rest of the step is not.
        part: What of the rows they are over: ``prompts`` alone, or ``completions`` behind prompts that another pass of
            the step keeps.
        projected: Directions that every output of an adapted layer is projected out of, forward and backward.
    """

    stream: str
    forward: float
    backward: float
    refusals: bool = False
    rows: int | None = None
    precise: bool = False
    part: Literal["whole", "prompts", "completions"] = "whole"
    projected: int = 0


class Defense(Settings):
    """A defense that acts while weights are trained: a formula for one optimizer step's gradient.

    It holds settings only. What it must remember between steps goes into ``step.memory``, which the trainer owns, so
    that one object can serve many trainings.
    """

    never_kept: ClassVar[str] = ""
    """Why optimizer steps cannot share its terms, for whoever asks with ``every``; empty where nothing is to share."""

    @model_validator(mode="before")
    @classmethod
    def _shares_nothing(cls, values: Any) -> Any:
        if isinstance(values, dict) and "every" in values and cls.never_kept:
            raise ValueError(f"every cannot be set: {cls.never_kept}")
        return values

    def passes_over(self, main: str) -> list[StreamPasses]:
        """Return what each optimizer step passes over, for whoever plans a training.

        By default one forward and one backward pass over what is trained on, and all others over the stream that the
        defense needs beside it, or over refusals to the same prompts where it needs no other rows.

        Args:
            main: Name of the stream that is trained on.
        """
        forward, backward = self.passes
        beside = next((name for name in self.info.streams if name in ("harmful", "safe") and name != main), None)
        refusals = beside is None and "refusals" in self.info.streams
        own = StreamPasses(main, min(1, forward), min(1, backward))
        rest = StreamPasses(beside or main, forward - own.forward, backward - own.backward, refusals)
        rest = rest._replace(precise=self.info.precise)
        return [own, rest] if rest.forward or rest.backward else [own]

    def passes_before(self) -> list[StreamPasses]:
        """Return what is passed over once before the first step, without dropout, for whoever plans a training.

        Each has its ``rows``; a stream that has fewer is passed over whole.
        """
        return []

    def gradient(self, step: Step) -> Gradient:
        """Return the gradient that the optimizer gets.

        Args:
            step: The optimizer step; its verbs return gradients of losses on streams.
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
        """Return the tokenizer to serve the finished model with.

        Args:
            tokenizer: A copy of the one that is trained with; may be changed.
        """
        return tokenizer


def require_defense(given: Any) -> Defense:
    """Return what was given as ``defense=`` to a trainer, if it is a defense that trains.

    Raises:
        UsageError: If it is a name, a class, a repair, or anything else; the message says what to write instead.
    """
    if isinstance(given, Defense):
        return given
    if isinstance(given, str):
        raise UsageError(
            f"defense is the text {given[:40]!r}; give a defense object, such as mithridate.{_class_like(given)}()"
        )
    if isinstance(given, type) and issubclass(given, Settings):
        raise UsageError(f"defense is the class {given.__name__}; give an object: {given.__name__}()")
    if isinstance(given, Settings):
        raise UsageError(
            f"{type(given).__name__} repairs finished models; train with another defense, such as mithridate.SFT(), "
            "and call its repair(trainer.model, …) afterwards"
        )
    raise UsageError(f"defense is of type {type(given).__name__}; give a defense object, such as mithridate.SFT()")


def require_finite(gradient: Any, defense: Defense, number: int) -> None:
    """Refuse what a defense returned if no optimizer can follow it.

    Args:
        gradient: What it returned.
        defense: The defense.
        number: Number of the optimizer step, from 1.

    Raises:
        DefenseError: If it is no gradient.
        Diverged: If its norm is not finite.
    """
    if not isinstance(gradient, Gradient):
        raise DefenseError(
            f"{type(defense).__name__}.gradient returned {type(gradient).__name__}, not a Gradient; "
            "return a Gradient made of step.gradient(…)"
        )
    norm = gradient.norm()
    if not math.isfinite(norm):
        raise Diverged(
            f"the gradient of optimizer step {number} has norm {norm}; "
            "lower the learning rate or the strength of the defense, and check the data"
        )


def _class_like(name: str) -> str:
    """Return the public defense whose name is most like a wrong one, in either spelling."""
    # The façade knows all names; the registry, which stands above this module, is not asked.
    public = [known for known in dir(mithridate) if known[0].isupper()]
    near = nearest(name.replace("_", ""), public)
    found = getattr(mithridate, near) if near else None
    return near if near and isinstance(found, type) and issubclass(found, Defense) else "AntibodyTuning"
