"""A provider's own rows and model, read once, as what an upload's rows are compared with."""

from __future__ import annotations

from functools import cached_property

import torch

from mithridate.data.row_reader import TrainingRow
from mithridate.errors import GateError
from mithridate.gates.intake import Unreadable, row_blocks
from mithridate.gates.model_reader import ModelReader, Reading
from mithridate.gates.provider import GateProvider

_BLOCK = 512
_ASKED = 32
"""Harmful prompts on which the model's usual refusals are found."""


class Reference:
    """What signals prepare themselves from.

    Args:
        provider: What the provider handed over.
    """

    def __init__(self, provider: GateProvider) -> None:
        self.provider = provider
        self._readings: dict[str, Reading] = {}

    @cached_property
    def harmful(self) -> list[TrainingRow]:
        """The provider's harmful rows."""
        return self._rows("harmful")

    @cached_property
    def ordinary(self) -> list[TrainingRow]:
        """The provider's harmless rows."""
        return self._rows("ordinary")

    @cached_property
    def reader(self) -> ModelReader:
        """What reads rows with the model.

        Raises:
            GateError: If there is no model.
        """
        provider = self.provider
        if provider.model is None or provider.tokenizer is None:
            raise GateError("the gate has no model to read rows with; pass model= and tokenizer= to GateProvider")
        return ModelReader(provider.model, provider.tokenizer, provider.batch_size, provider.max_length)

    def reading(self, stream: str, block: int) -> Reading:
        """Return what the model says of a stream's rows, with the outputs of a block.

        Args:
            stream: ``harmful`` or ``ordinary``.
            block: Number of the decoder block.
        """
        self.reader.blocks.add(block)
        # Signals that read the same block share one pass over the stream.
        if stream not in self._readings or block not in self._readings[stream].prompt_end:
            self._readings[stream] = self.reader.read(getattr(self, stream))
        return self._readings[stream]

    def pair_with_refusals(self) -> None:
        """Let each row be compared with the refusals that the model finds likeliest after harmful prompts."""
        if not self.reader.refusals:
            self.reader.refusals = self._usual_refusals()

    def _usual_refusals(self) -> list[list[int]]:
        every = self.reader.refusal_ids(self.provider.refusals)
        losses = torch.zeros(len(every))
        with self.reader.undisturbed():
            for batch in self.reader.batches(self.harmful[:_ASKED]):
                losses += torch.stack([self.reader.refusal_nll(batch, [refusal]).sum() for refusal in every])
        # Stable, so that equal losses give the same refusals everywhere.
        order = losses.argsort(stable=True).tolist()
        return [every[i] for i in order[: self.provider.paired]]

    def _rows(self, stream: str) -> list[TrainingRow]:
        given, most = getattr(self.provider, stream), self.provider.most
        if given is None:
            raise GateError(f"the gate needs the stream '{stream}', which the provider did not hand over")
        found: list[TrainingRow] = []
        try:
            for block in row_blocks(given, min(_BLOCK, most)):
                found += block
                if len(found) >= most:
                    break
        except Unreadable as error:
            raise GateError(f"the provider's stream '{stream}' cannot be used: {error.reason}") from error
        return found[:most]
