"""One optimizer step, as the verbs a defense is written with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mithridate.errors import DefenseError
from mithridate.models.activation_sums import output_directions, output_grams
from mithridate.models.batches import Batch
from mithridate.models.decoder import DecoderPart
from mithridate.models.tokenization import TokenizedRow
from mithridate.training.accumulation import activation_gradient, loss_gradient, weighted_gradient
from mithridate.training.contradictions import refuse_contradictions, refuse_two_completions
from mithridate.training.gradient import Gradient
from mithridate.training.observed import Observed, Weighting
from mithridate.training.perturbation import Perturbation
from mithridate.training.row_stream import Stream
from mithridate.training.scored_rows import LogWeights, Loss, ScoredRows, Totals, uniform
from mithridate.training.scoring import Likelihood
from mithridate.training.sharding import made_whole
from mithridate.training.step_loss import Features, StepLoss, step_loss_gradient
from mithridate.training.step_passes import StepPasses, Wanted
from mithridate.training.step_rows import Clock, Completions, Memory, StepRows, StreamOrRows


class Step:
    """The optimizer step a defense computes the gradient of.

    Args:
        main: Name of the stream that is being trained on (``safe`` at alignment, ``user`` at fine-tuning).
        micro_batches: This process's micro-batches of the whole step.
        likelihood: Scores rows; knows the processes that share them.
        streams: The other streams by name.
        refusals: Token ids of refusals.
        micro_batch_size: Rows per forward pass of the other streams.
        pad_token_id: Padding token.
        clock: Where in the training the step stands.
        memory: What the defense remembers between steps.
        longest: Tokens of a row after which it is cut; None for no limit.

    Attributes:
        observed: Sums over the training rows.
        logs: Figures that prove that the defense acted.
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
        clock: Clock | None = None,
        memory: Memory | None = None,
        longest: int | None = None,
    ) -> None:
        self.main = main
        self.memory: Memory = {} if memory is None else memory
        self.weights = likelihood.weights
        self.observed = Observed()
        self.logs: dict[str, float] = {}
        self._likelihood = likelihood
        self._processes = likelihood.processes
        self._rows = StepRows(
            main=main,
            micro_batches=micro_batches,
            streams=streams,
            refusals=refusals,
            micro_batch_size=micro_batch_size,
            pad_token_id=pad_token_id,
            processes=likelihood.processes,
            clock=clock or Clock(),
            longest=longest,
            device=self.weights.device,
        )
        self._passes = StepPasses(self._rows, likelihood)
        self._observing = main
        self._frozen: list[bool] | None = None

    # Gradients

    def gradient(
        self,
        stream: StreamOrRows,
        *,
        completions: Completions | None = None,
        paired: Completions | None = None,
        log_weights: LogWeights | None = None,
        loss: Loss | None = None,
        step_loss: StepLoss | None = None,
        features: Features | None = None,
        hidden: Sequence[DecoderPart] = (),
        logits: bool = False,
        reference: bool = False,
    ) -> Gradient:
        """∇ of a loss on a stream's batch at the present weights (1 forward + 1 backward pass).

        By default it is the mean token loss. The batch of a stream is the same however often it is asked for
        within the step.

        Args:
            stream: ``user``, ``safe`` or ``harmful``, or rows of one.
            completions: ``"refusals"`` pairs the prompts with generic refusals in place of their own completions.
            paired: ``"refusals"`` scores refusals to the same prompts as well, as ``rows.paired`` (1 more forward
                pass, and with ``loss`` or ``step_loss`` 1 more backward pass).
            log_weights: Row weighting; weights are its softmax over the whole step's batch.
            loss: From scored rows to their share of another loss, made with ``per_token`` and ``per_row``.
            step_loss: A loss that is no mean over rows, of ``features`` of all rows of the step (1 more forward pass).
            features: From scored rows to the features that ``step_loss`` needs, one tensor per row.
            hidden: Outputs that the loss needs, of ``attention``, ``mlp``, ``block`` and ``final``.
            logits: Whether the loss needs the logits.
            reference: Whether the loss needs the rows under the weights the stage started from (1 more forward
                pass, without gradient; once a step where only likelihoods are kept).

        Returns:
            The gradient, with the row weights it was taken with and the parameters that are frozen.

        Raises:
            DefenseError: If the stream was not given or has no trained token, or arguments contradict each other.
        """
        wanted = Wanted(completions, paired, tuple(hidden), logits, reference)
        refuse_contradictions(wanted, log_weights, loss, step_loss, features)
        # Decided when passes are made: the second pass of a step loss must not be observed again.
        observe = self._observer(stream, completions)
        if step_loss is not None and features is not None:
            found = step_loss_gradient(
                self._likelihood, lambda: self._passes.over(stream, wanted, observe()), features, step_loss
            )
        elif loss is not None:
            passes = self._passes.over(stream, wanted, observe())
            totals = self.totals(stream, completions)
            beside = None if paired is None else self.totals(stream, paired)
            found = loss_gradient(self._likelihood, passes, loss, totals, beside)
        else:
            weighting = Weighting(log_weights or uniform)
            # Weights are no function of w to be differentiated, so what they are made of needs no graph.
            passes = self._passes.over(stream, wanted, observe(), differentiable=False)
            found = weighted_gradient(self._likelihood, passes, weighting)
            # Only of the rows that are trained on: a mean weight of each is kept, by its position in the data set.
            if log_weights is not None and stream == self.main and completions is None:
                found.row_shares = weighting.shares(self._processes)
        found.frozen = None if self._frozen is None else tuple(self._frozen)
        return found

    def activation_gradient(
        self, stream: StreamOrRows, part: DecoderPart, layers: Sequence[int] | None = None
    ) -> Perturbation:
        """∂f/∂(outputs of a part) with f the mean token loss (1 forward + 1 backward pass).

        Args:
            stream: As for ``gradient``.
            part: ``attention``, ``mlp``, ``block`` or ``final``.
            layers: Numbers of the decoder blocks; all by default.
        """
        passes = self._passes.over(stream, Wanted(), self._observer(stream, None)())
        found = activation_gradient(self._likelihood, passes, self.totals(stream), part, layers)
        found.taken_on = self._rows.identity(stream)
        return found

    @contextmanager
    def perturbed(self, part: DecoderPart, perturbation: Perturbation) -> Iterator[None]:
        """Add a vector to the outputs of a part inside the block, for gradients on the stream it was taken on."""
        with self._passes.perturbed(part, perturbation):
            yield

    # Weights and modes

    @property
    def model(self) -> nn.Module:
        """The model that is trained, PEFT or plain."""
        return self._likelihood.model

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        """Inside the block a module's parameters are whole on every process; what is written into them is kept.

        Under FSDP2 they are split over the processes outside it. All processes must enter it and write the same.

        Args:
            module: A part of the model.
        """
        with made_whole(self.model, module):
            yield

    @property
    def position(self) -> Gradient:
        """A copy of the present weights, as a vector."""
        return Gradient.owning(self.weights.snapshot(), self.weights.holders)

    @contextmanager
    def precise(self) -> Iterator[None]:
        """Inside the block the model computes in float32 and gradients are float32.

        The difference of two gradients at nearby weights is mostly rounding in half precision. Without half-precision
        weights and autocast nothing changes; with them float32 copies of these weights are held inside the block.
        """
        with self._likelihood.precise():
            yield

    def moved(self, displacement: Gradient) -> AbstractContextManager[None]:
        """Displace the weights inside the block; they are restored bit for bit after it."""
        return self.weights.moved(displacement)

    @contextmanager
    def simulated(
        self, optimizer: Callable[..., torch.optim.Optimizer], **settings: Any
    ) -> Iterator[Callable[[Gradient], None]]:
        """Train the weights for a while inside the block, as an adversary would; every bit is restored after it.

        Args:
            optimizer: Class of the optimizer.
            **settings: Its settings, such as ``lr``.

        Yields:
            A function that takes one optimizer step along a gradient.
        """
        # A copy, and not steps back: no optimizer can undo its own rounding.
        with self.weights.kept():
            made = optimizer(self.weights.parameters, **settings)

            def follow(gradient: Gradient) -> None:
                self.weights.set_grad(gradient)
                made.step()

            try:
                yield follow
            finally:
                self.weights.clear_grad()

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Inside the block the model is the one the stage started from, without gradient.

        Passes draw the masks that other passes over the same rows draw, so that a model that has not moved has not
        drifted either.
        """
        with self.weights.at_start():
            yield

    @contextmanager
    def training_only(self, layers: Sequence[int]) -> Iterator[None]:
        """Gradients taken inside the block leave the weights of all other decoder blocks alone.

        Args:
            layers: Numbers of the decoder blocks that are trained; weights outside the blocks are trained as well.
        """
        if self._frozen is not None:
            raise DefenseError("other decoder blocks are frozen already; use one training_only block at a time")
        # Zero gradients would not do: momentum and weight decay still move a parameter whose gradient is zero.
        self._frozen = [not kept for kept in self.weights.in_layers(layers)]
        try:
            with self.weights.freezing(self._frozen):
                yield
        finally:
            self._frozen = None

    # Rows

    @torch.no_grad()
    def score(
        self,
        stream: StreamOrRows,
        *,
        completions: Completions | None = None,
        paired: Completions | None = None,
        hidden: Sequence[DecoderPart] = (),
    ) -> list[ScoredRows]:
        """Score a stream's batch without gradient (1 forward pass); micro-batches and dropout as in ``gradient``.

        Args:
            stream: As for ``gradient``.
            completions: As for ``gradient``.
            paired: As for ``gradient`` (1 more forward pass).
            hidden: As for ``gradient``.
        """
        wanted = Wanted(completions, paired, tuple(hidden))
        refuse_two_completions(wanted)
        scored = []
        for run in self._passes.over(stream, wanted, differentiable=False):
            with run() as rows:
                if len(rows.row):
                    scored.append(rows)
        return scored

    def read(self, hidden: Tensor) -> Tensor:
        """Return the logits of a hidden state, through last norm and output head: (…, features) → (…, vocabulary)."""
        return self._likelihood.read(hidden)

    def read_nll(self, hidden: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Return the loss of labels as each hidden state reads, without the logits of all tokens at once.

        Args:
            hidden: Hidden states of the same tokens, (tokens, features) each.
            labels: (tokens,) the token that follows each.

        Returns:
            (tokens,) for each hidden state, in nats.
        """
        return self._likelihood.read_nll(hidden, labels)

    def output_directions(self, layers: Mapping[str, nn.Module], stream: StreamOrRows, k: int) -> list[Tensor]:
        """Return the top left singular directions of each linear layer's outputs W·X, without dropout (1 forward pass).

        Args:
            layers: Linear layers of the model, by name.
            stream: Rows whose tokens are the columns of X, as for ``gradient``.
            k: Number of directions.

        Returns:
            (outputs, k) float64 for each layer, over the rows of all processes.

        Raises:
            DefenseError: If a layer has no more than k outputs, or outputs are not finite.
        """
        rows = list(self._rows.batches(stream))
        if self._likelihood.is_sharded:
            rows += self._rows.stand_ins(stream, len(rows))
        grams = output_grams(self.model, list(layers.values()), rows, self._likelihood.autocast)
        found = zip(layers, grams, strict=True)
        return [output_directions(self._processes.sum(gram), k, name) for name, gram in found]

    def train_on(self, stream: str) -> None:
        """Train on another stream in this step, so that TRL's metrics are taken over it."""
        self._observing = stream

    def redraw(self, stream: str, size: int | None = None) -> None:
        """From here on use the stream's next rows, by default as many as before."""
        self._rows.redraw(stream, size)

    def first(self, stream: str, size: int) -> list[TokenizedRow]:
        """Return the first rows of a stream, the same in every step.

        Raises:
            DefenseError: If it has fewer.
        """
        return self._rows.first(stream, size)

    def sample(self, stream: str, size: int) -> list[TokenizedRow]:
        """Return rows of a stream drawn by the run's seed, all where it has no more; its next rows stay the same."""
        return self._rows.sample(stream, size)

    def rows_of(self, stream: str) -> list[TokenizedRow]:
        """Return the rows of this step's batch of a stream, over all processes."""
        return self._rows.examples(stream)

    def room(self, row: TokenizedRow) -> int:
        """Return how many tokens of a row's completion, not all, can stand before a whole refusal."""
        return self._rows.room(row)

    def totals(self, stream: StreamOrRows, completions: Completions | None = None) -> Totals:
        """Return the rows and completion tokens of a stream's batch, over all processes."""
        return self._likelihood.totals(self._rows.batches(stream, completions))

    # The rest

    @property
    def trained_on(self) -> str:
        """The stream that this step trains on."""
        return self._observing

    @property
    def clock(self) -> Clock:
        """Where in the training the step stands."""
        return self._rows.clock

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers of this step for a purpose: the same in every process and after a resume."""
        return self._rows.generator(purpose)

    def gather(self, value: Any) -> list[Any]:
        """Return what every process has, in the order of the processes."""
        return self._processes.gather(value)

    def sum(self, mine: Tensor) -> Tensor:
        """Return the sum of every process's tensor."""
        return self._processes.sum(mine)

    def log(self, **figures: float) -> None:
        """Record figures that prove that the defense acted in this step."""
        self.logs.update(figures)

    def _observer(
        self, stream: StreamOrRows, completions: Completions | None
    ) -> Callable[[], Callable[[Any], None] | None]:
        """Decides, when passes are made, whether they are the first ones over the rows that are trained on."""
        # Later passes may be at displaced weights or activations, whose loss is not the model's.
        meant = stream == self._observing and completions is None
        return lambda: self.observed.add if meant and self.observed.tokens == 0 else None
