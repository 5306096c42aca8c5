"""What a forward pass tells about rows, and the losses made of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mithridate.errors import DefenseError
from mithridate.models.batches import Batch
from mithridate.models.decoder import DecoderPart
from mithridate.models.tokenization import IGNORED


class Totals(NamedTuple):
    """Size of an optimizer step's whole batch, over all micro-batches and processes.

    Attributes:
        rows: Number of rows.
        tokens: Number of completion tokens.
    """

    rows: int
    tokens: int


class ScoredRows:
    """What one forward pass tells about the rows of a micro-batch.

    Args:
        batch: The micro-batch.
        log_probs: (rows, tokens − 1) log-probability of each next token, in nats, 0 outside the
            completion; differentiable in training.
        mask: (rows, tokens − 1) whether the next token belongs to the completion.
        hidden: Outputs that were asked for, by part, one (rows, tokens, features) per module.
        logits: (rows, tokens − 1, vocabulary), where asked for.
        entropy: (rows, tokens − 1) entropy of each next token, in nats, as the log-probabilities.
    """

    def __init__(
        self,
        batch: Batch,
        log_probs: Tensor,
        mask: Tensor,
        hidden: Mapping[DecoderPart, Sequence[Tensor]] | None = None,
        logits: Tensor | None = None,
        entropy: Tensor | None = None,
    ) -> None:
        self.batch = batch
        self.log_probs = log_probs
        self.mask = mask
        self.hidden = hidden or {}
        self.nll = -log_probs.sum(dim=1)
        self.tokens = mask.sum(dim=1)
        self._totals: Totals | None = None
        self._divisor = 0
        self._logits = logits
        self._entropy = entropy
        self._reference: ScoredRows | None = None
        self._paired: ScoredRows | None = None

    @property
    def mean_nll(self) -> Tensor:
        """(rows,) mean negative log-likelihood per completion token, in nats."""
        return self.nll / self.tokens

    @property
    def row(self) -> Tensor:
        """(rows,) position of each row in its data set."""
        return self.batch["row"]

    @property
    def logits(self) -> Tensor:
        """(rows, tokens − 1, vocabulary).

        Raises:
            DefenseError: If they were not asked for.
        """
        if self._logits is None:
            raise DefenseError("logits were not kept; ask for them with logits=True")
        return self._logits

    @property
    def entropy(self) -> Tensor:
        """(completion tokens,) entropy of each next token, in nats.

        Raises:
            DefenseError: If the rows were scored without it.
        """
        if self._entropy is None:
            raise DefenseError("the rows were scored without entropies; take them of rows that a step scored")
        return self._entropy[self.mask]

    @property
    def log_ratio(self) -> Tensor:
        """(rows,) log π(y|x)/π_0(y|x), π_0 the weights the stage started from, in nats; needs the reference."""
        return self.reference.nll - self.nll

    @property
    def reference(self) -> "ScoredRows":
        """The same rows under the weights the stage started from.

        Raises:
            DefenseError: If they were not asked for.
        """
        if self._reference is None:
            raise DefenseError("the reference was not scored; ask for it with reference=True")
        return self._reference

    @reference.setter
    def reference(self, rows: "ScoredRows") -> None:
        self._reference = rows

    @property
    def paired(self) -> "ScoredRows":
        """The other completions to the same prompts, row by row.

        Raises:
            DefenseError: If they were not asked for.
        """
        if self._paired is None:
            raise DefenseError("no other completions were scored; ask for them with paired='refusals'")
        return self._paired

    @paired.setter
    def paired(self, rows: "ScoredRows") -> None:
        self._paired = rows

    def belong_to(self, totals: Totals, divisor: int) -> None:
        """Say which step the rows are of, so that means over it can be taken.

        Args:
            totals: Size of the whole step's batch of these completions.
            divisor: What the sum of all shares will be divided by.
        """
        self._totals, self._divisor = totals, divisor

    @property
    def real(self) -> Tensor:
        """(rows, tokens) whether a token belongs to prompt or answer, not to padding."""
        return self.batch["attention_mask"].bool()

    @property
    def completion(self) -> Tensor:
        """(rows, tokens) whether a token belongs to the completion."""
        return self.batch["labels"] != IGNORED

    def at_prompt_end(self, hidden: Tensor) -> Tensor:
        """(rows, features) of a hidden state at the last token before each completion."""
        # The mask is of next tokens, so its first True stands at the prompt's last token.
        last = self.mask.int().argmax(dim=1)
        return hidden[torch.arange(len(last), device=last.device), last]

    def per_token(self, values: Tensor) -> "LossShare":
        """Return this micro-batch's share of a mean over the completion tokens of the whole step: Σ values / tokens.

        Args:
            values: One value per position (rows, tokens − 1), per completion token, or each row's sum (rows,).

        Raises:
            DefenseError: If the values are reduced already.
        """
        self._require(values, "per_token", {self.mask.shape, (int(self.tokens.sum()),), self.tokens.shape})
        # The sum of shares is divided by the divisor; multiplying by 1.0 where both are equal changes no bit.
        return LossShare(values.sum() * (self._divisor / self._step.tokens))

    def per_row(self, values: Tensor) -> "LossShare":
        """Return this micro-batch's share of a mean over the rows of the whole step: Σ values / rows.

        Args:
            values: One value per row, (rows,).

        Raises:
            DefenseError: If the values are reduced already.
        """
        # A mean taken before would weigh rows by the micro-batch they happen to be in.
        self._require(values, "per_row", {self.tokens.shape})
        return LossShare(values.sum() * (self._divisor / self._step.rows))

    def once(self, value: Tensor) -> "LossShare":
        """Return a sum over the whole step as it is, each micro-batch with its own share.

        Args:
            value: This micro-batch's share of the sum, ().

        Raises:
            DefenseError: If it is no single number.
        """
        self._require(value, "once", {()})
        return LossShare(value * self._divisor)

    def _require(self, values: Tensor, called: str, shapes: set[tuple[int, ...]]) -> None:
        if tuple(values.shape) not in {tuple(shape) for shape in shapes}:
            wanted = " or ".join(str(tuple(shape)) for shape in sorted(shapes, key=len))
            raise DefenseError(
                f"rows.{called} was given values of shape {tuple(values.shape)}, expected {wanted}; "
                "do not reduce them before, since the mean is taken over the whole step"
            )

    @property
    def _step(self) -> Totals:
        if self._totals is None:
            raise DefenseError("means over a step can be taken inside a loss only")
        return self._totals


class LossShare:
    """A micro-batch's share of a loss over the whole step, made by `ScoredRows`; shares can be added and scaled.

    It is a sum that the gradient divides once by the step's completion tokens, as the plain loss is.

    Attributes:
        value: The sum, ().
    """

    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __add__(self, other: "LossShare") -> "LossShare":
        return LossShare(self.value + other.value)

    def __sub__(self, other: "LossShare") -> "LossShare":
        return LossShare(self.value - other.value)

    def __mul__(self, scale: float) -> "LossShare":
        return LossShare(self.value * scale)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "LossShare":
        return LossShare(self.value / divisor)

    def __neg__(self) -> "LossShare":
        return LossShare(-self.value)


Loss = Callable[[ScoredRows], LossShare]
"""From the scored rows of a micro-batch to its share of the step's loss."""

LogWeights = Callable[[ScoredRows], Tensor]
"""Row weighting: from scored rows (no gradient) to unnormalized log-weights, (rows,)."""


def uniform(rows: ScoredRows) -> Tensor:
    """Plain training: every row has the same weight."""
    return torch.zeros_like(rows.nll)
