"""One optimizer step, as the verbs a defense is written with."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mithridate.errors import DefenseError
from mithridate.models.activations import shifted
from mithridate.models.batches import Batch
from mithridate.models.decoder import DecoderPart
from mithridate.models.tokenization import TokenizedRow
from mithridate.training.gradient import Gradient
from mithridate.training.perturbation import Perturbation
from mithridate.training.scored_rows import LogWeights, Loss, ScoredRows, uniform
from mithridate.training.scoring import Around
from mithridate.training.step_rows import StepRows


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


class RowShares(NamedTuple):
    """Weights of a row-weighted gradient, over all processes.

    Attributes:
        rows: Positions of the rows in their data set.
        shares: Their softmax shares.
        losses: Their mean token loss, in nats.
        counted: Whether a row belongs to this pass over the data; the sampler fills the last batch of several
            processes up with rows that were drawn before.
    """

    rows: list[int]
    shares: list[float]
    losses: list[float]
    counted: list[bool]

    def counted_rows(self) -> tuple[list[int], list[float]]:
        """Rows of this pass and their weights, 1 being the weight of a row in plain SFT."""
        pairs = [(r, s * len(self.rows)) for r, s, own in zip(self.rows, self.shares, self.counted, strict=True) if own]
        return [row for row, _ in pairs], [weight for _, weight in pairs]


class Step(StepRows):
    """The optimizer step a defense computes the gradient of (see `StepRows` for the arguments).

    Attributes:
        observed: Sums over the training rows.
        logs: Figures that prove that the defense acted.
        shares: Weights of the last row-weighted gradient over the rows that are trained on; None without one.
        held: For each parameter whether the optimizer leaves it alone in this step; None if it moves all.
    """

    def __init__(self, **rows: Any) -> None:
        super().__init__(**rows)
        self.observed = Observed()
        self.logs: dict[str, float] = {}
        self.shares: RowShares | None = None
        self.held: list[bool] | None = None
        self._observing = self.main
        self._weighed: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._perturbation: tuple[DecoderPart, Perturbation] | None = None

    def gradient(
        self,
        stream: str | Sequence[TokenizedRow],
        *,
        answers: str | None = None,
        log_weights: LogWeights | None = None,
        loss: Loss | None = None,
        hidden: Sequence[DecoderPart] = (),
        logits: bool = False,
        reference: bool = False,
    ) -> Gradient:
        """∇ of a loss on a stream's batch at the present weights (1 forward + 1 backward pass).

        Without ``loss`` it is the mean token loss. The batch of a stream is the same however often it is asked for
        within the step.

        Args:
            stream: ``user``, ``safe`` or ``harmful``, or rows of one.
            answers: ``"refusals"`` pairs the prompts with generic refusals in place of their own answers.
            log_weights: Row weighting; weights are its softmax over the whole step's batch.
            loss: From scored rows to their share of another loss, made with ``per_token`` and ``per_row``.
            hidden: Outputs that the loss needs, of ``attention``, ``mlp``, ``block`` and ``final``.
            logits: Whether the loss needs the logits.
            reference: Whether the loss needs the rows under the weights the stage started from (1 more forward
                pass, without gradient).

        Raises:
            DefenseError: If the stream was not given or has no trained token, or both a loss and a row weighting
                are given.
        """
        if loss is not None and log_weights is not None:
            raise DefenseError("rows are weighted by log_weights or inside a loss, not both; multiply within the loss")
        own = list(self.batches(stream, answers))
        observing = stream == self._observing and answers is None
        score = self._scorer(observing, reference, hidden=hidden, logits=logits)
        around = self._around(stream, own)
        if loss is not None:
            return self.likelihood.gradient_of(loss, own, score, around)
        if log_weights is None or stream != self.main:
            return self.likelihood.gradient(own, log_weights or uniform, score, around)
        self._weighed.clear()
        gradient = self.likelihood.gradient(own, self._recording(log_weights), score, around)
        self.shares = self._softmax_shares()
        return gradient

    def activation_gradient(
        self, stream: str | Sequence[TokenizedRow], part: DecoderPart, places: Sequence[int] | None = None
    ) -> Perturbation:
        """∂f/∂(outputs of a part) with f the mean token loss (1 forward + 1 backward pass).

        Args:
            stream: As for ``gradient``.
            part: ``attention``, ``mlp``, ``block`` or ``final``.
            places: Numbers of the blocks; all by default.
        """
        observe = self.observed.add if stream == self._observing and self.observed.tokens == 0 else None
        own = list(self.batches(stream))
        return self.likelihood.activation_gradient(part, own, observe, places, self._around(stream, own))

    @contextmanager
    def perturbed(self, part: DecoderPart, perturbation: Perturbation) -> Iterator[None]:
        """Add a vector to the outputs of a part inside the block, for gradients on the stream it was taken on."""
        self._perturbation = part, perturbation
        try:
            yield
        finally:
            self._perturbation = None

    @torch.no_grad()
    def score(
        self, stream: str | Sequence[TokenizedRow], *, answers: str | None = None, hidden: Sequence[DecoderPart] = ()
    ) -> list[ScoredRows]:
        """Score a stream's batch without gradient (1 forward pass); micro-batches and dropout as in ``gradient``."""
        own = list(self.batches(stream, answers))
        around, scored = self._around(stream, own), []
        for place, batch in enumerate(own):
            with around(place):
                scored.append(self.likelihood.score(batch, hidden=hidden))
        return scored

    @torch.no_grad()
    def with_completions(self, rows: ScoredRows, answers: str) -> ScoredRows:
        """Score the same prompts with other answers, without gradient and with the same dropout (1 forward pass)."""
        with self._random.again():
            return self.likelihood.score(self._with_answers(rows.batch, answers))

    @contextmanager
    def precise(self) -> Iterator[None]:
        """Inside the block the model computes in float32 and gradients are float32.

        The difference of two gradients at nearby weights is mostly rounding in half precision. Without half-precision
        weights and autocast nothing changes; with them float32 copies of these weights are held inside the block.
        """
        with self.likelihood.precise():
            yield

    @contextmanager
    def moved(self, displacement: Gradient) -> Iterator[None]:
        """Displace the weights inside the block; they are restored bit for bit after it."""
        with self.weights.moved(displacement):
            yield

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Whatever happens to the weights inside the block, they are restored bit for bit after it."""
        with self.weights.kept():
            yield

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Inside the block the model is the one the stage started from, without gradient.

        Passes draw the masks that other passes over the same rows draw, so that a model that has not moved has not
        drifted either.
        """
        with self.weights.at(self.weights.start), torch.no_grad():
            yield

    @property
    def position(self) -> Gradient:
        """A copy of the present weights, as a vector."""
        return Gradient(self.weights.snapshot())

    def train_on(self, stream: str) -> None:
        """Train on another stream in this step, so that TRL's metrics are taken over it."""
        self._observing = stream

    @contextmanager
    def training_only(self, blocks: Sequence[int]) -> Iterator[None]:
        """Leave the weights of all other decoder blocks alone in this step; inside the block none is differentiated."""
        self.held = [not kept for kept in self.weights.in_blocks(blocks)]
        with self.weights.holding(self.held):
            yield

    def log(self, **figures: float) -> None:
        """Record figures that prove that the defense acted in this step."""
        self.logs.update(figures)

    def _scorer(self, observing: bool, reference: bool, **wanted: Any) -> Callable[[Batch], ScoredRows]:
        observe = self.observed.add if observing and self.observed.tokens == 0 else None

        def score(batch: Batch) -> ScoredRows:
            # First, because the weights must not change between a pass and its gradient.
            before = self._at_start(batch, **wanted) if reference else None
            rows = self.likelihood.score(batch, observe, **wanted)
            if before is not None:
                rows.reference = before
            return rows

        return score

    def _around(self, stream: str | Sequence[TokenizedRow], own: Sequence[Batch]) -> Around:
        """What surrounds each pass: its random state, and the perturbation of activations."""
        modules, shifts = self._shifts(own)

        @contextmanager
        def around(place: int) -> Iterator[None]:
            with ExitStack() as stack:
                stack.enter_context(self.randomness(stream, place))
                if shifts is not None:
                    stack.enter_context(shifted(modules, shifts[place]))
                yield

        return around

    def _shifts(self, own: Sequence[Batch]) -> tuple[list[nn.Module], list[list[Tensor]] | None]:
        if self._perturbation is None:
            return [], None
        part, perturbation = self._perturbation
        if len(perturbation.parts) != len(own):
            raise DefenseError("a perturbation can be added to the stream it was taken on only")
        every = self.likelihood.decoder.part(part)
        return [every[place] for place in perturbation.places], perturbation.parts

    def _at_start(self, batch: Batch, **wanted: Any) -> ScoredRows:
        with self.at_start(), self._random.again():
            return self.likelihood.score(batch, **wanted)

    def _recording(self, log_weights: LogWeights) -> LogWeights:
        def recorded(rows: ScoredRows) -> Tensor:
            logs = log_weights(rows)
            counted = rows.batch.get("counted", torch.ones_like(rows.row, dtype=torch.bool))
            self._weighed.append((rows.row, logs.detach(), rows.mean_nll.detach(), counted))
            return logs

        return recorded

    def _softmax_shares(self) -> RowShares:
        """RowShares over the whole step's batch, gathered from all processes."""
        mine = [[part.double().tolist() for part in parts] for parts in self._weighed]
        found = [row for part in self.gather(mine) for parts in part for row in zip(*parts, strict=True)]
        rows, weights, losses, counted = (list(column) for column in zip(*found, strict=True))
        logs = torch.tensor(weights, dtype=torch.float64)
        shares = torch.zeros_like(logs) if torch.isneginf(logs).all() else logs.softmax(dim=0)
        return RowShares([int(row) for row in rows], shares.tolist(), losses, [bool(own) for own in counted])
