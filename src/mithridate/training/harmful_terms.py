"""Defenses whose terms on harmful rows are recomputed every k optimizer steps and kept in between."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from pydantic import Field

from mithridate.errors import DefenseError
from mithridate.settings import Passes
from mithridate.training.defense import Defense, StreamPasses
from mithridate.training.gradient import Gradient
from mithridate.training.step import Step

Terms = Mapping[str, Gradient]
"""Vectors over the trainable weights, by name."""

_KEPT = "kept_"
"""Before the name of a kept term, so that it cannot meet what a defense remembers itself."""


class HarmfulTerms(Defense):
    """A defense with terms that are taken on harmful rows, and that a few optimizer steps can share.

    Attributes:
        every: k, optimizer steps that share the harmful terms: they are recomputed in every k-th step, the first
            one included, and kept in between.
    """

    steady: ClassVar[Passes] = Passes(1, 1)
    """Passes of a step that keeps its harmful terms."""

    refused: ClassVar[int] = 0
    """Forward and backward passes over harmful prompts with refusals, of a step that computes its harmful terms."""

    every: int = Field(default=1, ge=1)

    @property
    def full_passes(self) -> Passes:
        """Passes of a step that computes its harmful terms; the registered ones, unless the defense says otherwise."""
        return super().passes

    @property
    def passes(self) -> Passes:
        """Passes of an optimizer step, on average over k of them."""
        full = self.full_passes
        if self.every == 1:
            return full
        averages = (kept + (whole - kept) / self.every for whole, kept in zip(full, self.steady, strict=True))
        return Passes(*averages)

    def passes_over(self, main: str) -> list[StreamPasses]:
        """Return the steady passes over what is trained on, and all others over harmful rows."""
        forward, backward = (whole - kept for whole, kept in zip(self.passes, self.steady, strict=True))
        refused = self.refused / self.every
        found = [
            StreamPasses(main, *self.steady),
            StreamPasses("harmful", forward - refused, backward - refused, precise=self.info.precise),
            StreamPasses("harmful", refused, refused, refusals=True, precise=self.info.precise),
        ]
        return [one for one in found if one.forward or one.backward]

    def shared(self, step: Step, compute: Callable[[Step], Terms]) -> Terms:
        """Return the harmful terms: computed in every k-th step, those of the last such step in between.

        Args:
            step: The optimizer step.
            compute: Takes the terms.

        Raises:
            DefenseError: If a term freezes weights or weighs rows, which a kept vector cannot tell.
        """
        if self.every == 1:
            return compute(step)
        kept = {name.removeprefix(_KEPT): value for name, value in step.memory.items() if name.startswith(_KEPT)}
        # By the run's own count, so that a resumed run recomputes where the uninterrupted one does. A checkpoint of a
        # run that kept nothing has none.
        computed = step.clock.number % self.every == 0 or not kept
        if not computed:
            step.log(harmful_terms_computed=False)
            return {name: Gradient.reading(tensors, step.weights.holders) for name, tensors in kept.items()}
        # Freed before the passes, so that old terms and new ones are not held at once.
        for name in kept:
            del step.memory[_KEPT + name]
        kept.clear()
        terms = compute(step)
        for name, term in terms.items():
            if term.frozen is not None or term.row_shares is not None:
                raise DefenseError(
                    f"the term '{name}' freezes weights or weighs rows, which is not kept with it; set every to 1"
                )
            step.memory[_KEPT + name] = term.kept()
        step.log(harmful_terms_computed=True)
        return terms
