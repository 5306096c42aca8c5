"""The forward passes of one optimizer step: the same rows draw the same dropout masks in all of them."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mithridate.errors import DefenseError
from mithridate.models.activations import shifted
from mithridate.models.batches import Batch
from mithridate.models.decoder import DecoderPart
from mithridate.models.prompt_cache import PromptCache
from mithridate.training.perturbation import Perturbation
from mithridate.training.scored_rows import ScoredRows
from mithridate.training.scoring import Likelihood, Pass
from mithridate.training.step_rows import Completions, StepRows, StreamOrRows


class Wanted(NamedTuple):
    """What is to be known of the rows.

    Attributes:
        completions: What takes the place of the rows' own completions.
        paired: Completions to score beside the rows' own.
        hidden: Outputs to keep.
        logits: Whether to keep the logits.
        reference: Whether to score the rows under the weights the stage started from as well.
    """

    completions: Completions | None = None
    paired: Completions | None = None
    hidden: Sequence[DecoderPart] = ()
    logits: bool = False
    reference: bool = False


class StepPasses:
    """Makes the passes over the micro-batches of a stream.

    Args:
        rows: The rows of the step.
        likelihood: Scores them.
    """

    def __init__(self, rows: StepRows, likelihood: Likelihood) -> None:
        self._rows = rows
        self._likelihood = likelihood
        self._perturbation: tuple[DecoderPart, Perturbation] | None = None
        self._references: dict[Hashable, ScoredRows] = {}

    @contextmanager
    def perturbed(self, part: DecoderPart, perturbation: Perturbation) -> Iterator[None]:
        """Passes made inside the block add a vector to the outputs of a part."""
        if self._perturbation is not None:
            raise DefenseError("activations are perturbed already; add the two perturbations within one block")
        self._perturbation = part, perturbation
        try:
            yield
        finally:
            self._perturbation = None

    def over(
        self,
        stream: StreamOrRows,
        wanted: Wanted,
        observe: Callable[[Any], None] | None = None,
        *,
        differentiable: bool = True,
    ) -> list[Pass]:
        """Return one pass for each of this process's micro-batches.

        Args:
            stream: Name of the stream, or rows of one.
            wanted: What is to be known of the rows.
            observe: Called with the model's output on the rows' own completions.
            differentiable: Whether paired completions are scored with gradient.
        """
        if self._perturbation is not None and (wanted.reference or wanted.paired):
            raise DefenseError(
                "reference= and paired= are scored at unperturbed activations; use them outside perturbed"
            )
        own = list(self._rows.batches(stream, wanted.completions))
        modules, shifts = self._shifts(self._rows.identity(stream), len(own))
        if self._likelihood.is_sharded:
            own += self._rows.stand_ins(stream, len(own), wanted.completions)

        def made(number: int, batch: Batch) -> Pass:
            @contextmanager
            def run() -> Iterator[ScoredRows]:
                with ExitStack() as stack:
                    stack.enter_context(self._rows.randomness(stream, number))
                    if shifts is not None and number < len(shifts):
                        stack.enter_context(shifted(modules, shifts[number]))
                    # A reference belongs to the masks it was drawn with, hence to the micro-batch.
                    key = self._rows.pass_key(stream, number)
                    yield self._scored(batch, key, wanted, observe, differentiable)

            return run

        return [made(number, batch) for number, batch in enumerate(own)]

    def _scored(
        self,
        batch: Batch,
        key: Hashable,
        wanted: Wanted,
        observe: Callable[[Any], None] | None,
        differentiable: bool,
    ) -> ScoredRows:
        other = None if wanted.paired is None else self._rows.paired(batch, wanted.paired)
        # References first, because the weights must not change between a pass and its gradient.
        before = self._reference(batch, key, wanted)
        other_before = None if other is None else self._reference(other, key, wanted)
        shared = None if other is None else self._shared_prompts(batch, other, wanted, differentiable)
        further = None if shared is None else shared.first
        rows = self._likelihood.score(batch, observe, hidden=wanted.hidden, logits=wanted.logits, further=further)
        if before is not None:
            rows.reference = before
        if other is not None:
            rows.paired = self._paired(other, shared, wanted, differentiable)
            if other_before is not None:
                rows.paired.reference = other_before
        return rows

    def _shared_prompts(self, batch: Batch, other: Batch, wanted: Wanted, differentiable: bool) -> PromptCache | None:
        """Return the cache of prompts that both passes share; None where the second pass is over whole rows."""
        # A gradient would have to go through the prompts of both passes.
        whole = differentiable or wanted.hidden or wanted.logits or wanted.reference
        return None if whole else self._likelihood.prompt_cache(batch, other)

    def _paired(self, other: Batch, shared: PromptCache | None, wanted: Wanted, differentiable: bool) -> ScoredRows:
        """Return the rows with other completions, scored after their own."""
        # Masks of the same state, although the refusals' tokens are others: the comparison is of completions, not
        # of masks.
        with self._rows.random.again(), nullcontext() if differentiable else torch.no_grad():
            if shared is not None:
                return self._likelihood.score(shared.completions, further=shared.second)
            return self._likelihood.score(other, hidden=wanted.hidden, logits=wanted.logits)

    def _reference(self, batch: Batch, key: Hashable, wanted: Wanted) -> ScoredRows | None:
        """Return the rows under the weights the stage started from; a mere likelihood is scored once a step."""
        if not wanted.reference:
            return None
        if wanted.hidden or wanted.logits:  # too large to keep
            return self._score_at_start(batch, wanted)
        # By the tokens themselves: rows of two streams may share number and length.
        tokens = tuple(batch[name].cpu().numpy().tobytes() for name in ("input_ids", "labels"))
        key = (key, tokens, self._likelihood.is_precise)
        if key not in self._references:
            self._references[key] = self._score_at_start(batch, wanted)
        return self._references[key]

    def _score_at_start(self, batch: Batch, wanted: Wanted) -> ScoredRows:
        with self._likelihood.weights.at_start(), self._rows.random.again():
            return self._likelihood.score(batch, hidden=wanted.hidden, logits=wanted.logits)

    def _shifts(self, rows: Hashable, micro_batches: int) -> tuple[list[nn.Module], list[list[Tensor]] | None]:
        if self._perturbation is None:
            return [], None
        part, perturbation = self._perturbation
        if perturbation.taken_on not in (None, rows) or len(perturbation.parts) != micro_batches:
            raise DefenseError("a perturbation can be added to the stream it was taken on only")
        every = self._likelihood.decoder.part(part)
        return [every[layer] for layer in perturbation.layers], perturbation.parts
