"""What a training costs: its optimizer steps, and what each of them passes over."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mithridate.experiment.jobs import ProviderRows, TrainingJob
from mithridate.experiment.recipe_parts import TrainingSettings
from mithridate.planning.pass_work import PassWork
from mithridate.planning.row_tokens import Padded, RowLengths, RowTokens, padded
from mithridate.training.defense import Defense, StreamPasses
from mithridate.training.given_streams import TRAINED


class Work(NamedTuple):
    """Work of a stage, or of a part of it.

    Attributes:
        tokens: Tokens that go forward, padding left out.
        generated: Tokens that are generated.
        flops: Floating-point operations, those on padding included.
        precise: Those of them that are in float32 whatever the model is in.
        read: Bytes of weights that generation reads, once for each token of a batch.
    """

    tokens: float = 0.0
    generated: float = 0.0
    flops: float = 0.0
    precise: float = 0.0
    read: float = 0.0

    def plus(self, other: "Work") -> "Work":
        """Return the sum."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> "Work":
        """Return the work done so many times."""
        return Work(*(a * factor for a in self))


def training_work(job: TrainingJob, defense: Defense, lengths: RowLengths, work: PassWork) -> tuple[int, Work]:
    """Return the optimizer steps of a training stage, and its work."""
    main = TRAINED[job.stage]
    rows = {main: lengths.of(job.rows)} | provider_rows(job.provider, lengths, main)
    refusal = lengths.refusal(job.provider.refusals)
    course = PlannedCourse.of(job.training, rows[main].rows, 0.0 if job.adapter == "none" else job.lora.dropout)
    once = course._replace(steps=1, shares_prompts=not course.unpadded)
    before = trained(once, defense.passes_before(), rows, refusal, job.max_length, work)
    steps = trained(course, defense.passes_over(main), rows, refusal, job.max_length, work)
    return course.steps, before.plus(steps)


def provider_rows(provider: ProviderRows, lengths: RowLengths, main: str = "") -> dict[str, RowTokens]:
    """Return the lengths of the provider's streams, but the one that is trained on."""
    given = {"safe": provider.safe, "harmful": provider.harmful}
    return {name: lengths.of(stored) for name, stored in given.items() if stored is not None and name != main}


class PlannedCourse(NamedTuple):
    """How long a training is, and how it is cut.

    Attributes:
        steps: Optimizer steps.
        seen: Rows of what is trained on over all steps, repetitions included.
        batch: Rows of each other stream in a step.
        micro_batch: Rows of a forward pass.
        recomputes: Whether activations are computed again in the backward pass.
        shares_prompts: Whether a second pass over the same prompts can leave them out.
        unpadded: Whether the rows of a forward pass are laid end to end.
    """

    steps: int
    seen: float
    batch: int
    micro_batch: int
    recomputes: bool = False
    shares_prompts: bool = False
    unpadded: bool = False

    @classmethod
    def of(cls, settings: TrainingSettings, rows: int, dropout: float = 0.0) -> "PlannedCourse":
        """Return the course of a training stage over so many rows, counted as the trainer does.

        Args:
            settings: How the stage is trained.
            rows: Rows with something to learn.
            dropout: The adapter's; 0 without an adapter.
        """
        micro_batch = settings.batch_size // settings.accumulation
        an_epoch = math.ceil(math.ceil(rows / micro_batch) / settings.accumulation)
        steps = max(1, math.ceil(settings.epochs * an_epoch))
        # The last batch of an epoch is smaller.
        seen = steps / an_epoch * rows
        batch = settings.stream_batch_size or settings.batch_size
        recomputes, unpadded = settings.gradient_checkpointing, settings.padding_free
        shares_prompts = not (recomputes or unpadded or dropout)
        return cls(steps, seen, batch, micro_batch, recomputes, shares_prompts, unpadded)


def trained(
    course: PlannedCourse,
    passes: Sequence[StreamPasses],
    rows: Mapping[str, RowTokens],
    refusal: float,
    max_length: int,
    work: PassWork,
) -> Work:
    """Return the work of a training.

    Args:
        course: Its length.
        passes: What each step passes over, the stream that is trained on first.
        rows: Lengths of the streams' rows.
        refusal: Mean tokens of a refusal.
        max_length: Longest row.
        work: What a row's passes cost.
    """
    total = Work()
    for one in passes:
        lengths = rows[one.stream].ending(refusal, max_length) if one.refusals else rows[one.stream]
        if one.rows is not None:
            seen: float = course.steps * min(one.rows, lengths.rows)
        else:
            seen = course.seen if one.stream == passes[0].stream else course.steps * course.batch
        part = "whole" if one.part == "completions" and not course.shares_prompts else one.part
        own, batch = lengths.part(part), min(course.micro_batch, one.rows or course.batch)
        # Attention that is no flash attention looks at all rows of a pass, and masks the others.
        size = Padded(own.mean, own.mean**2 * batch) if course.unpadded else padded(own.whole, batch)
        if part == "completions":  # which look back at their prompts as well
            size = size._replace(square=size.mean * padded(lengths.whole, batch).mean)
        forward = one.forward + (one.backward if course.recomputes else 0.0)
        flops = seen * (forward * work.forward.at(size) + one.backward * work.backward.at(size))
        # y·V and its product with Vᵀ, twice as many operations each as V has entries.
        flops += (
            seen
            * (forward + one.backward)
            * size.mean
            * 4
            * one.projected
            * sum(outputs for outputs, _ in work.linears)
        )
        tokens = seen * one.forward * own.mean
        total = total.plus(Work(tokens=tokens, flops=flops, precise=flops * one.precise))
    return total


def scored(lengths: RowTokens, batch: int, work: PassWork) -> Work:
    """Return the work of a forward pass over rows."""
    size = padded(lengths.whole, batch)
    return Work(tokens=lengths.rows * lengths.mean, flops=lengths.rows * work.forward.at(size))


def generated(lengths: RowTokens, new_tokens: int, batch: int, work: PassWork) -> Work:
    """Return the work of answering prompts with as many tokens as are allowed.

    Args:
        lengths: The prompts.
        new_tokens: Tokens of each answer.
        batch: Prompts per batch.
        work: What a row's passes cost.
    """
    prompts = scored(lengths, batch, work)
    # Token i of an answer looks back at i tokens and at the prompt; the mean of i is half the answer.
    seen = lengths.mean + new_tokens / 2
    a_token = work.forward.linear + 2 * work.forward.quadratic * seen
    batches = math.ceil(lengths.rows / batch)
    count = lengths.rows * new_tokens
    return prompts.plus(Work(generated=count, flops=count * a_token, read=batches * new_tokens * work.weight_bytes))
