"""The rows of one optimizer step: drawn once, shared out over processes, cut into micro-batches."""

import zlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from mithridate.errors import DefenseError
from mithridate.models.batches import Batch, batches, with_completions
from mithridate.models.tokenization import TokenizedRow
from mithridate.training.randomness import Randomness
from mithridate.training.row_stream import Stream
from mithridate.training.scored_rows import Totals
from mithridate.training.scoring import Likelihood


class Clock(NamedTuple):
    """Where in the training a step stands.

    Attributes:
        number: Optimizer steps done before.
        total: Optimizer steps of the whole run.
        seed: Seed of the run.
        rows: Rows of the training set.
    """

    number: int = 0
    total: int = 1
    seed: int = 0
    rows: int = 0


Memory = dict[str, Any]
"""What a defense remembers between the steps of one training: numbers, strings, lists of these, tensors and lists of
tensors, by name. The trainer owns it: new at each training, saved in checkpoints, restored from them."""


class StepRows:
    """Where the rows of a step come from, and the processes that share them.

    Args:
        main: Name of the stream that is being trained on (``safe`` at alignment, ``user`` at fine-tuning).
        micro_batches: This process's micro-batches of the whole step.
        likelihood: Scores rows; tells how many processes there are.
        streams: The other streams by name.
        refusals: Token ids of refusal answers.
        micro_batch_size: Rows per forward pass of the other streams.
        pad_token_id: Padding token.
        rank: This process; it takes every ``processes``-th row of a drawn batch.
        clock: Where in the training the step stands.
        memory: What the defense remembers between steps.
        longest: Tokens of a row after which it is cut; None for no limit.
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
        clock: Clock | None = None,
        memory: Memory | None = None,
        longest: int | None = None,
    ) -> None:
        self.main = main
        self.likelihood = likelihood
        self.weights = likelihood.weights
        self.rank = rank
        self.clock = clock or Clock()
        self.memory: Memory = {} if memory is None else memory
        self._longest = longest
        self._random = Randomness(self.weights.parameters[0].device)
        self._micro_batches = list(micro_batches)
        self._streams = streams
        self._refusals = refusals
        self._micro_batch_size = micro_batch_size
        self._pad = pad_token_id
        self._drawn: dict[str, list[TokenizedRow]] = {}

    def batches(self, stream: str | Sequence[TokenizedRow], answers: str | None = None) -> Iterator[Batch]:
        """This process's share of a stream's batch, in micro-batches."""
        own = self._micro_batches if stream == self.main else self._share(self._examples(stream))
        for batch in own:
            yield batch if answers is None else self._with_answers(batch, answers)

    def randomness(self, stream: str | Sequence[TokenizedRow], place: int) -> AbstractContextManager[None]:
        """The random state that all passes over a micro-batch of a stream share.

        Args:
            stream: As for ``batches``.
            place: Number of the micro-batch.
        """
        if stream == self.main:
            return self._random.shared((stream, place))
        rows: Hashable = (stream, self._drawn_times(stream)) if isinstance(stream, str) else _names(stream)
        purpose = f"dropout {rows} {place} on {self.rank}"
        return self._random.shared((rows, place), self.generator(purpose).initial_seed())

    def redraw(self, stream: str, size: int | None = None) -> None:
        """From here on use the stream's next rows, by default as many as before."""
        self._drawn[stream] = self._stream(stream).draw(size)

    def first(self, stream: str, size: int) -> list[TokenizedRow]:
        """The first rows of a stream, the same in every step.

        Raises:
            DefenseError: If it has fewer.
        """
        examples = self._stream(stream).examples
        if len(examples) < size:
            raise DefenseError(f"the stream '{stream}' has {len(examples)} rows, but {size} are needed; give more rows")
        return examples[:size]

    def totals(self, stream: str | Sequence[TokenizedRow]) -> Totals:
        """Rows and answer tokens of a stream's batch, over all processes."""
        return self.likelihood.totals(list(self.batches(stream)))

    def rows_of(self, stream: str) -> list[TokenizedRow]:
        """The rows of this step's batch of a stream, over all processes."""
        return self._examples(stream)

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers of this step for a purpose: the same in every process and after a resume."""
        mixed = zlib.crc32(f"{self.clock.seed}/{self.clock.number}/{purpose}".encode())
        return torch.Generator().manual_seed(mixed)

    def gather(self, value: Any) -> list[Any]:
        """What every process gives, in the order of the processes."""
        everywhere = [value]
        if self.likelihood.processes > 1:
            everywhere = [None] * self.likelihood.processes
            distributed.all_gather_object(everywhere, value)
        return everywhere

    def sum(self, mine: Tensor) -> Tensor:
        """The sum of every process's tensor."""
        if self.likelihood.processes > 1:
            distributed.all_reduce(mine)
        return mine

    def _examples(self, stream: str | Sequence[TokenizedRow]) -> list[TokenizedRow]:
        if not isinstance(stream, str):
            return list(stream)
        if stream not in self._drawn:
            self.redraw(stream)
        return self._drawn[stream]

    def _drawn_times(self, stream: str) -> int:
        """Position of the stream, which tells its present batch from the one before."""
        self._examples(stream)
        return self._streams[stream].drawn

    def _stream(self, stream: str) -> Stream:
        if stream not in self._streams:
            raise DefenseError(
                f"the defense needs the stream '{stream}', which was not given; pass {stream}_dataset to the trainer"
            )
        return self._streams[stream]

    def _share(self, examples: Sequence[TokenizedRow]) -> Iterator[Batch]:
        share = examples[self.rank :: self.likelihood.processes]
        return batches(share, self._micro_batch_size, self._pad, self.weights.parameters[0].device)

    def _with_answers(self, batch: Batch, answers: str) -> Batch:
        if answers != "refusals":
            raise DefenseError(f"unknown answers '{answers}'; only 'refusals' can be paired with prompts")
        if not self._refusals:
            raise DefenseError("the defense needs refusal sentences; pass refusals=mithridate.REFUSALS")
        return with_completions(batch, self._refusals, self._pad, self._longest)


def _names(examples: Sequence[TokenizedRow]) -> Hashable:
    return tuple((example.row, len(example.input_ids)) for example in examples)
