"""Joint alignment: the user's rows by Antibody's weights, the provider's by a defense of the alignment stage.

No paper of its own. Antibody weighs rows by what the model that is being tuned would rather say than refuse; its
weights are as good as the refusals that are left. Here every step also aligns, so that they stay.

    g = (1 − m)·g_A(w) + m·g_align(w)

with g_A Antibody's fine-tuning gradient (arXiv 2603.00498, Eq. 12) and g_align the gradient of any alignment-stage
defense on the provider's rows: `deep_alignment`'s, Antibody's, or ∇f (with which this is the mixing of arXiv
2309.07875, its user's rows weighed). Cost: Antibody's 2 forward and 1 backward passes and those of the defense inside,
over a batch of either.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mithridate.defenses.antibody import AntibodyTuning
from mithridate.defenses.registry import method, register
from mithridate.defenses.sft import SFT
from mithridate.defenses.spread_of_ratios import MEASURED
from mithridate.errors import DefenseError
from mithridate.settings import Passes
from mithridate.training.defense import Defense, StreamPasses
from mithridate.training.gradient import Gradient
from mithridate.training.step import Step


@register(
    "joint_alignment",
    stage="finetuning",
    paper="ours: Antibody's fine-tuning and alignment in every step",
    streams=("refusals", "safe", "harmful"),
    forward=4,
    backward=3,
    off={"temperature": float("inf"), "share": 0.0},
    extra="with another defense inside its passes in the place of 2 + 2; with temperature auto as antibody_tuning",
    vectors=2,
    precise=True,
)
class JointAlignment(AntibodyTuning):
    """Joint alignment: g = (1 − m)·g_A + m·g_align, g_align over the provider's rows  (4 forward, 3 backward).

    Attributes:
        share: m, weight of the provider's rows.
        inner: Name of the alignment-stage defense whose gradient is taken on them; None for ∇f.
        settings: Its settings.
        temperature: As of `antibody_tuning`.
        likelihood: As of `antibody_tuning`.
    """

    never_kept: ClassVar[str] = "steps share the terms of the defense inside alone; set every in its settings"

    share: float = Field(default=0.3, ge=0, lt=1)
    inner: str | None = "deep_alignment"
    settings: dict[str, Any] = Field(default_factory=dict)
    temperature: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    likelihood: Literal["token", "sequence"] = "sequence"

    @model_validator(mode="after")
    def _can_stand_inside(self) -> "JointAlignment":
        inner = self._inner()
        if inner is None and self.settings:
            raise DefenseError(
                "settings are those of the defense inside, and inner is None; name one or leave them out"
            )
        if isinstance(inner, SFT):
            raise DefenseError(
                "inner: sft is the loss of the rows that are trained on, the user's; set inner to None for ∇f"
            )
        if inner is not None and inner.finishes:
            raise DefenseError(f"inner: {self.inner} acts once more on the trained weights at the end; take another")
        return self

    @property
    def trains_with(self) -> str | None:
        """The defense inside."""
        return self.inner

    @property
    def streams(self) -> tuple[str, ...]:
        """Safe rows, and what Antibody and the defense inside need."""
        inner = self._inner()
        measured = MEASURED if self.temperature == "auto" else ()
        return tuple(dict.fromkeys(("refusals", "safe", *measured, *(inner.streams if inner else ()))))

    @property
    def passes(self) -> Passes:
        """Those of both."""
        own, inner = Passes(2, 1), self._inner()
        beside = inner.passes if inner else Passes(1, 1)
        return Passes(own.forward + beside.forward, own.backward + beside.backward) if self.share else own

    @property
    def vectors(self) -> int:
        """Antibody's gradient, and what the defense inside holds."""
        inner = self._inner()
        return 1 + (inner.vectors if inner else 0)

    def passes_over(self, main: str) -> list[StreamPasses]:
        """Return what Antibody passes over, and what the defense inside does."""
        inner = self._inner()
        beside = inner.passes_over("safe") if inner else [StreamPasses("safe", 1, 1)]
        return [*super().passes_over(main), *(beside if self.share else [])]

    def start(self, step: Step) -> None:
        """Let both check and measure."""
        super().start(step)
        inner = self._inner()
        if inner:
            inner.start(step)

    def gradient(self, step: Step) -> Gradient:
        """(1 − m)·g_A + m·g_align."""
        tuned = super().gradient(step)
        if not self.share:
            return tuned
        inner = self._inner()
        aligned = inner.gradient(step) if inner else step.gradient("safe")
        return (1 - self.share) * tuned + self.share * aligned

    def _inner(self) -> Defense | None:
        if self.inner is None:
            return None
        made = method(self.inner, "alignment").cls(**self.settings)
        assert isinstance(made, Defense)  # the registry gives nothing else at this stage; for type checkers
        return made
