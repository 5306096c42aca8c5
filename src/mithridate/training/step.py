"""One optimizer step, as the verbs a defense is written with."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from mithridate.errors import DefenseError
from mithridate.training.batch import Batch, Example, answered, batches
from mithridate.training.gradient import Gradient
from mithridate.training.likelihood import Likelihood, LogWeights, ScoredRows, uniform
from mithridate.training.streams import Stream


class Observed:
    """Sums over the training rows of the step, of which TRL's usual metrics are made."""

    def __init__(self) -> None:
        self.nll = 0.0
        self.entropy = 0.0
        self.correct = 0.0
        self.tokens = 0.0

    def add(self, output: Any) -> None:
        """Add one forward pass."""
        self.nll -= float(output.log_probs.detach().sum())
        self.entropy += float(output.entropy.detach().sum())
        self.correct += float(output.is_top1.sum())
        self.tokens += float(output.label_mask.sum())


class Step:
    """The optimizer step a defense computes the gradient of.

    Args:
        main: Name of the stream that is being trained on (``safe`` at alignment, ``user`` at fine-tuning).
        micro_batches: This process's micro-batches of the whole step.
        likelihood: Scores rows and accumulates gradients.
        streams: The other streams by name.
        refusals: Token ids of refusal answers.
        micro_batch_size: Rows per forward pass of the other streams.
        pad_token_id: Padding token.
        rank: This process; it takes every ``processes``-th row of a drawn batch.

    Attributes:
        observed: Sums over the training rows.
        logs: Figures that prove that the defense acted.
        shares: Row positions and softmax shares of a weighted gradient, over all processes; None without one.
    """

    def __init__(
        self,
        *,
        main: str,
        micro_batches: Sequence[Batch],
        likelihood: Likelihood,
        streams: Mapping[str, Stream],
        refusals: Sequence[Sequence[int]],
        micro_batch_size: int,
        pad_token_id: int,
        rank: int = 0,
    ) -> None:
        self.main = main
        self.likelihood = likelihood
        self.observed = Observed()
        self.logs: dict[str, float] = {}
        self.shares: tuple[list[int], list[float]] | None = None
        self._micro_batches = list(micro_batches)
        self._streams = streams
        self._refusals = refusals
        self._micro_batch_size = micro_batch_size
        self._pad = pad_token_id
        self._rank = rank
        self._drawn: dict[str, list[Example]] = {}
        self._log_weights: list[tuple[Tensor, Tensor]] = []

    def gradient(self, stream: str, *, answers: str | None = None, log_weights: LogWeights | None = None) -> Gradient:
        """∇ of the mean token loss of a stream's batch at the present weights (1 forward + 1 backward pass).

        The batch of a stream is the same however often it is asked for within the step.

        Args:
            stream: ``user``, ``safe`` or ``harmful``.
            answers: ``"refusals"`` pairs the prompts with generic refusals in place of their own answers.
            log_weights: Row weighting; weights are its softmax over the whole step's batch.

        Raises:
            DefenseError: If the stream was not given or has no trained token.
        """
        observing = stream == self.main and answers is None and self.observed.tokens == 0
        observe = self.observed.add if observing else None

        def score(batch: Batch) -> ScoredRows:
            return self.likelihood.score(batch, observe)

        weighting = uniform if log_weights is None else self._recording(log_weights)
        gradient = self.likelihood.gradient(self.batches(stream, answers), weighting, score)
        if log_weights is not None:
            self.shares = self._softmax_shares()
        return gradient

    @torch.no_grad()
    def answered(self, rows: ScoredRows, answers: str) -> ScoredRows:
        """Score the same prompts with other answers, without gradient (1 forward pass)."""
        return self.likelihood.score(self._with_answers(rows.batch, answers))

    @contextmanager
    def moved(self, displacement: Gradient) -> Iterator[None]:
        """Displace the weights inside the block; they are restored bit for bit after it."""
        with self.likelihood.weights.moved(displacement):
            yield

    def log(self, **figures: float) -> None:
        """Record figures that prove that the defense acted in this step."""
        self.logs.update(figures)

    def batches(self, stream: str, answers: str | None = None) -> Iterator[Batch]:
        """This process's share of a stream's batch, in micro-batches."""
        own = self._micro_batches if stream == self.main else self._draw(stream)
        for batch in own:
            yield batch if answers is None else self._with_answers(batch, answers)

    def _draw(self, stream: str) -> Iterator[Batch]:
        if stream not in self._drawn:
            if stream not in self._streams:
                raise DefenseError(
                    f"the defense needs the stream '{stream}', which was not given; "
                    f"pass {stream}_dataset to the trainer"
                )
            self._drawn[stream] = self._streams[stream].draw()
        share = self._drawn[stream][self._rank :: self.likelihood.processes]
        device = self.likelihood.weights.parameters[0].device
        return batches(share, self._micro_batch_size, self._pad, device)

    def _with_answers(self, batch: Batch, answers: str) -> Batch:
        if answers != "refusals":
            raise DefenseError(f"unknown answers '{answers}'; only 'refusals' can be paired with prompts")
        if not self._refusals:
            raise DefenseError("the defense needs refusal sentences; pass refusals=mithridate.REFUSALS")
        return answered(batch, self._refusals, self._pad)

    def _recording(self, log_weights: LogWeights) -> LogWeights:
        def recorded(rows: ScoredRows) -> Tensor:
            logs = log_weights(rows)
            self._log_weights.append((rows.row, logs.detach()))
            return logs

        return recorded

    def _softmax_shares(self) -> tuple[list[int], list[float]]:
        """Shares over the whole step's batch, gathered from all processes."""
        pairs = [
            (int(row), float(log)) for rows, logs in self._log_weights for row, log in zip(rows, logs, strict=True)
        ]
        if self.likelihood.processes > 1:
            gathered: list[Any] = [None] * self.likelihood.processes
            distributed.all_gather_object(gathered, pairs)
            pairs = [pair for part in gathered for pair in part]
        logs = torch.tensor([log for _, log in pairs], dtype=torch.float64)
        shares = torch.zeros_like(logs) if torch.isneginf(logs).all() else logs.softmax(dim=0)
        return [row for row, _ in pairs], shares.tolist()
