"""The rows of one optimizer step: drawn once, shared out over processes, cut into micro-batches."""

import zlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import torch

from mithridate.errors import DefenseError
from mithridate.models.batches import STAND_IN, Batch, batches, with_completions
from mithridate.models.tokenization import TokenizedRow
from mithridate.training.processes import Processes
from mithridate.training.randomness import Randomness
from mithridate.training.row_stream import Stream


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

StreamOrRows = str | Sequence[TokenizedRow]
"""A stream by its name, or rows of one."""

Completions = Literal["refusals"]
"""Completions that can take the place of the rows' own, or stand beside them: generic refusals."""


class StepRows:
    """Where the rows of a step come from, and the random states of passes over them.

    Args:
        main: Name of the stream that is being trained on (``safe`` at alignment, ``user`` at fine-tuning).
        micro_batches: This process's micro-batches of the whole step.
        streams: The other streams by name.
        refusals: Token ids of refusals.
        micro_batch_size: Rows per forward pass of the other streams.
        pad_token_id: Padding token.
        processes: Those that share the rows; each takes every ``count``-th row of a drawn batch.
        clock: Where in the training the step stands.
        longest: Tokens of a row after which it is cut; None for no limit.
        device: Device of the model.
    """

    def __init__(
        self,
        *,
        main: str,
        micro_batches: Sequence[Batch],
        streams: Mapping[str, Stream],
        refusals: Sequence[Sequence[int]],
        micro_batch_size: int,
        pad_token_id: int,
        processes: Processes,
        clock: Clock,
        longest: int | None,
        device: torch.device,
    ) -> None:
        self.main = main
        self.clock = clock
        self.random = Randomness(device)
        self._micro_batches = [batch for batch in micro_batches if STAND_IN not in batch]
        self._first_row = {name: tensor[:1] for name, tensor in micro_batches[0].items()} if micro_batches else {}
        self._streams = streams
        self._refusals = refusals
        self._micro_batch_size = micro_batch_size
        self._pad = pad_token_id
        self._processes = processes
        self._longest = longest
        self._device = device
        self._drawn: dict[str, list[TokenizedRow]] = {}

    def batches(self, stream: StreamOrRows, completions: Completions | None = None) -> Iterator[Batch]:
        """Return this process's share of a stream's batch, in micro-batches.

        Args:
            stream: Name of the stream, or rows of one.
            completions: What takes the place of the rows' own completions.
        """
        own = self._micro_batches if stream == self.main else self._share(self.examples(stream))
        for batch in own:
            yield batch if completions is None else self.paired(batch, completions)

    def paired(self, batch: Batch, completions: Completions) -> Batch:
        """Return the same prompts with other completions.

        Raises:
            DefenseError: If there are no such completions.
            DataError: If a prompt leaves no room for one.
        """
        if completions != "refusals":
            raise DefenseError(f"unknown completions '{completions}'; only 'refusals' can be paired with prompts")
        if not self._refusals:
            raise DefenseError("the defense needs refusal sentences; pass refusals=mithridate.REFUSALS")
        made = with_completions(batch, self._refusals, self._pad, self._longest)
        return made | {STAND_IN: batch[STAND_IN]} if STAND_IN in batch else made

    def room(self, row: TokenizedRow) -> int:
        """Return how many tokens of a row's completion, not all, can stand before a whole refusal."""
        some = len(row.input_ids) - row.prompt_length - 1
        if self._longest is not None:
            some = min(some, self._longest - row.prompt_length - max(map(len, self._refusals), default=0))
        return max(0, some)

    def stand_ins(self, stream: StreamOrRows, passes: int, completions: Completions | None = None) -> list[Batch]:
        """Return batches that do not count, for the passes that other processes make beyond this one's.

        Args:
            stream: As for ``batches``.
            passes: Passes that this process makes over its own rows.
            completions: As for ``batches``.
        """
        missing = int(self._processes.largest(passes)) - passes
        if missing == 0:
            return []
        if stream == self.main:
            row = self._first_row
        else:
            row = next(batches(self.examples(stream)[:1], 1, self._pad, self._device))
        row = row | {STAND_IN: torch.ones(1, dtype=torch.bool)}
        return [row if completions is None else self.paired(row, completions)] * missing

    def pass_key(self, stream: StreamOrRows, number: int) -> Hashable:
        """Return what tells the random state of a micro-batch from those of others.

        Args:
            stream: As for ``batches``.
            number: Number of the micro-batch.
        """
        return (self.identity(stream), number)

    def randomness(self, stream: StreamOrRows, number: int) -> AbstractContextManager[None]:
        """Return the random state that all passes over a micro-batch of a stream share (see ``pass_key``)."""
        key = self.pass_key(stream, number)
        if stream == self.main:
            return self.random.shared(key)
        purpose = f"dropout {self.identity(stream)} {number} on {self._processes.rank}"
        return self.random.shared(key, self.generator(purpose).initial_seed())

    def redraw(self, stream: str, size: int | None = None) -> None:
        """From here on use the stream's next rows, by default as many as before."""
        self._drawn[stream] = self._stream(stream).draw(size)

    def first(self, stream: str, size: int) -> list[TokenizedRow]:
        """Return the first rows of a stream, the same in every step.

        Raises:
            DefenseError: If it has fewer.
        """
        examples = self._stream(stream).examples
        if len(examples) < size:
            raise DefenseError(f"the stream '{stream}' has {len(examples)} rows, but {size} are needed; give more rows")
        return examples[:size]

    def sample(self, stream: str, size: int) -> list[TokenizedRow]:
        """Return rows of a stream drawn by the run's seed, all where it has no more; its next rows stay the same."""
        examples = self._stream(stream).examples
        order = torch.randperm(len(examples), generator=self.generator(f"sample of {stream}"))
        return [examples[place] for place in order[:size].tolist()]

    def examples(self, stream: StreamOrRows) -> list[TokenizedRow]:
        """Return the rows of this step's batch of a stream, over all processes."""
        if not isinstance(stream, str):
            return list(stream)
        if stream not in self._drawn:
            self.redraw(stream)
        return self._drawn[stream]

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers of this step for a purpose: the same in every process and after a resume."""
        # CRC-32 and not hash(): Python's differs from process to process.
        mixed = zlib.crc32(f"{self.clock.seed}/{self.clock.number}/{purpose}".encode())
        return torch.Generator().manual_seed(mixed)

    def identity(self, stream: StreamOrRows) -> Hashable:
        """Return what tells the present batch of a stream, or given rows, from others."""
        if stream == self.main:
            return self.main
        if isinstance(stream, str):
            self.examples(stream)
            return (stream, self._streams[stream].drawn)
        return tuple((example.row, len(example.input_ids)) for example in stream)

    def _stream(self, stream: str) -> Stream:
        if stream not in self._streams:
            raise DefenseError(
                f"the defense needs the stream '{stream}', which was not given; pass {stream}_dataset to the trainer"
            )
        return self._streams[stream]

    def _share(self, examples: Sequence[TokenizedRow]) -> Iterator[Batch]:
        # Every count-th row, so that no process waits for one with all the long rows of a sorted stream.
        share = examples[self._processes.rank :: self._processes.count]
        return batches(share, self._micro_batch_size, self._pad, self._device)
