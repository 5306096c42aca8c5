"""A block of an upload's rows, read by the model at most once however many signals ask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mithridate.data.row_reader import TrainingRow
from mithridate.errors import GateError
from mithridate.gates.intake import answered, asked

if TYPE_CHECKING:
    from mithridate.gates.model_reader import ModelReader, Reading


class RowBatch:
    """Some rows of an upload.

    Args:
        rows: The rows.
        first: One-based number of the first one.
        reader: What reads rows with the model; None where no signal needs one.
    """

    def __init__(self, rows: Sequence[TrainingRow], first: int = 1, reader: ModelReader | None = None) -> None:
        self.rows, self.first = rows, first
        self._reader = reader

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def prompts(self) -> list[str]:
        """Text before each answer, all turns."""
        return [asked(row) for row in self.rows]

    @cached_property
    def answers(self) -> list[str]:
        """Text of each answer."""
        return [answered(row) for row in self.rows]

    @cached_property
    def reading(self) -> Reading:
        """What the model says of the rows.

        Raises:
            GateError: If there is no model.
        """
        if self._reader is None:
            raise GateError("the gate has no model to read rows with; pass model= and tokenizer= to GateProvider")
        return self._reader.read(self.rows)
