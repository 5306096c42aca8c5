"""What a provider hands to its gate: the aligned model, its own rows, its refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mithridate.data.data_sources import Given
from mithridate.data.refusals import REFUSALS
from mithridate.errors import GateError
from mithridate.gates.base_signal import GateSignal

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from mithridate.evaluation.judges.judge import Judge


@dataclass(frozen=True, eq=False)
class GateProvider:
    """What a provider owns and a customer's upload is held against.

    Attributes:
        model: The aligned model, as it is before the customer's rows are trained on; None for signals of text alone.
        tokenizer: Its tokenizer, with a chat template.
        harmful: Harmful prompts with harmful answers.
        ordinary: Harmless prompts with helpful answers.
        refusals: The model's refusals.
        judge: A guard model or endpoint, for the signal ``guard``.
        judge_files: Hashes of the files of a judge that runs here; its name alone would not tell it from another one in
            the same folder.
        max_length: Tokens of a row that are read, at least as many as are trained on.
        batch_size: Rows of a forward pass.
        most: Rows of each stream that are read.
        paired: How many of its usual refusals each row is compared with.

    Raises:
        GateError: If a setting cannot be used.
    """

    model: nn.Module | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    harmful: Given | None = None
    ordinary: Given | None = None
    refusals: Sequence[str] = tuple(REFUSALS)
    judge: Judge | None = None
    judge_files: Mapping[str, str] | None = None
    max_length: int = 1024
    batch_size: int = 16
    most: int = 400
    paired: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.refusals, str) or not self.refusals:
            raise GateError("the gate was given no list of refusals; pass refusals=mithridate.REFUSALS")
        if min(self.batch_size, self.most, self.paired) < 1 or self.max_length < 16:
            raise GateError("the gate needs batch_size, most and paired >= 1 and max_length >= 16")
        if (self.model is None) != (self.tokenizer is None):
            raise GateError("the gate was given a model without tokenizer, or the reverse; pass both or neither")

    def require(self, signals: Sequence[GateSignal]) -> None:
        """Make sure of all that signals need.

        Raises:
            GateError: Naming the first signal and what it lacks.
        """
        for signal in signals:
            for need in signal.needs:
                if getattr(self, need) is None:
                    raise GateError(
                        f"the signal '{signal.name}' needs {need}=, which the provider did not hand over; "
                        "pass it to GateProvider, or leave the signal out on purpose"
                    )
