"""The base class of defenses that change the weights of a finished model once."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn
from transformers import PreTrainedTokenizerBase

from mithridate.errors import DefenseError, ModelError
from mithridate.models.modes import undisturbed
from mithridate.models.preconditions import check_finite
from mithridate.models.quantized_base import keep_differentiable
from mithridate.models.tokenization import Rows, TokenizedRow, tokenize
from mithridate.models.undo import undone_on_failure
from mithridate.repair.budgets import Budgets, RowLosses
from mithridate.repair.dose import AUTO_NEEDS_USER, largest_dose
from mithridate.repair.refused_rows import RefusedRows
from mithridate.repair.repair_inputs import RepairInputs, UntokenizedRow
from mithridate.repair.repairable import repairable
from mithridate.repair.repaired import DoseCurve, Repaired
from mithridate.repair.safe_kinds import by_kind
from mithridate.settings import Settings

Dose = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"]
"""A strength, or ``"auto"`` for the largest one within the budgets."""


class Repair(Settings):
    """A defense that changes the weights of a finished model once.

    Attributes:
        budget: For ``"auto"``: largest rise of the loss on held-out user rows, in nats per token.
        safe_budget: For ``"auto"``: largest rise of the loss on the provider's safe rows, where they are given, in
            nats per token; refusals and answers are averaged apart, and each must be within it.
        over_refusal_budget: For ``"auto"``: largest rise of the share of the provider's harmless prompts that the model
            refuses, where safe rows are given; one prompt more is always allowed.
        trim: For ``"auto"``: share of the held-out rows, those whose loss rises most, that is left out of the
            rise, because unvetted rows may be harmful themselves.
        batch_size: Rows per forward pass; changes the speed only.
        max_length: Longest row in tokens.
        by_shard: Whether the repair can act on a model that stays on disk.
    """

    by_shard: ClassVar[bool] = False

    budget: float = Field(default=0.05, gt=0)
    safe_budget: float = Field(default=0.015, gt=0)
    over_refusal_budget: float = Field(default=0.005, ge=0)
    trim: float = Field(default=0.25, ge=0, lt=1)
    batch_size: int = Field(default=16, ge=1)
    max_length: int | None = Field(default=512, ge=1)

    @property
    def needs_adapter(self) -> bool:
        """Whether the defense can only act on a model with a LoRA adapter."""
        return False

    @property
    def most_rows(self) -> int | None:
        """Rows that it measures on at most, for whoever plans it; None where it takes all."""
        return None

    def layer_work(self, outputs: int, inputs: int, tokens: float) -> float:
        """Return the floating-point operations of one linear layer beside its passes, for whoever plans it.

        Args:
            outputs: Outputs of the layer.
            inputs: Its inputs.
            tokens: Tokens of all calibration rows.
        """
        return 0.0

    @property
    def searches(self) -> bool:
        """Whether a dose is to be searched for, which takes held-out user rows and heeds safe rows."""
        return self.dose is not None and getattr(self, self.dose) == "auto"

    @property
    def heeded(self) -> tuple[str, ...]:
        """The streams it needs, and the safe rows where it searches, so that no search buys safety with refusals."""
        return (*self.streams, *(["safe"] if self.searches else []))

    @property
    def merges(self) -> bool:
        """Whether the defense acts on whole weights, so that an adapter is merged."""
        return bool(self.info.references)

    def repair(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        harmful: Rows | None = None,
        user: Rows | None = None,
        safe: Rows | None = None,
        aligned: nn.Module | None = None,
        base: nn.Module | None = None,
        refusals: Sequence[str] = (),
    ) -> Repaired:
        """Change the model in place.

        Args:
            model: A finished model, PEFT or plain.
            tokenizer: Its tokenizer.
            harmful: The provider's harmful rows.
            user: Held-out rows of the user's own data.
            safe: The provider's safe rows.
            aligned: The model before fine-tuning, PEFT or plain.
            base: The model before alignment, PEFT or plain.
            refusals: Refusal sentences, for a defense that trains with them.

        Raises:
            ModelError: If weights hold NaN or Inf or cannot be written, or models that are compared do not fit.
            DefenseError: If rows or models it needs are not given, or it cannot act on this model.

        Whatever is raised, the models' weights, gradients and flags are left as they were, bit for bit.
        """
        # Such weights can never be written to, which torch says only deep inside a formula.
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise ModelError(
                "the model was made inside torch.inference_mode, so its weights are fixed; load it again outside"
            )
        # NaN compares as unequal and sorts as largest: a repair would act on it without an error.
        check_finite(model)
        keep_differentiable(model)
        streams = {"harmful": harmful, "user": user, "safe": safe}
        references = {"aligned": aligned, "base": base}
        inputs = RepairInputs(type(self).__name__, model, tokenizer, self.max_length, streams, references, refusals)
        with undisturbed(m for m in (model, aligned, base) if m is not None), undone_on_failure():
            return self.change(inputs)

    def change(self, inputs: RepairInputs) -> Repaired:
        """Change ``inputs.model`` in place, writing weights only through ``mithridate.models.undo.overwrite``.

        Args:
            inputs: The model, and whatever rows and other models were given.
        """
        raise NotImplementedError

    def change_stored(self, inputs: Any) -> Repaired:
        """Change a model that stays on disk, where ``by_shard`` says that it can be done.

        Args:
            inputs: `StoredInputs`, whose weights are read and written one at a time.
        """
        return self.change(inputs)

    def search(
        self,
        inputs: RepairInputs,
        parameter: str,
        doses: Iterable[float],
        dosed: Callable[[float], AbstractContextManager[None]],
    ) -> DoseCurve:
        """Return the largest dose within the budgets; the model is left as it was.

        Args:
            inputs: The model with held-out user rows, and safe and harmful rows where they are given. Without safe rows
                only the user's rows are heeded, and a dose within their budget may still cost over-refusal.
            parameter: Name of the dose.
            doses: Doses to try, in rising order.
            dosed: Context manager under which the model has a dose.

        Raises:
            DefenseError: If there are no held-out rows, or even the smallest dose is beyond a budget.
        """
        safe = inputs.untokenized("safe") if inputs.has("safe") else []
        return largest_dose(parameter=parameter, doses=doses, dosed=dosed, budgets=self.budgets(inputs, safe))

    def budgets(self, inputs: RepairInputs, safe: Sequence[UntokenizedRow]) -> Budgets:
        """Return how far the losses of the user's and the provider's rows may rise from the present weights.

        Args:
            inputs: The model with held-out user rows, and harmful rows where they are given.
            safe: The provider's safe rows to measure on; may be empty.

        Raises:
            DefenseError: If there are no held-out rows.
        """
        if not inputs.has("user"):
            raise DefenseError(AUTO_NEEDS_USER)

        def losses(rows: Sequence[TokenizedRow]) -> RowLosses:
            return RowLosses(inputs.model, repairable(inputs.model), rows, self.batch_size)

        measured = {
            kind: tokenize(rows[:KIND_ROWS], inputs.tokenizer, self.max_length) for kind, rows in by_kind(safe).items()
        }
        asked = RefusedRows(inputs.model, inputs.tokenizer, measured.get("answers", []), self.batch_size)
        return Budgets(
            user=losses(inputs.rows("user")),
            safe={kind: losses(rows) for kind, rows in measured.items()},
            refused=asked if asked else None,
            harmful=losses(inputs.rows("harmful")[:CURVE_ROWS]) if inputs.has("harmful") else None,
            budget=self.budget,
            safe_budget=self.safe_budget,
            over_refusal_budget=self.over_refusal_budget,
            trim=self.trim,
        )


CURVE_ROWS = 128
"""Harmful rows, the first ones, over which a dose curve shows the harmful loss; it decides nothing."""
KIND_ROWS = 256
"""Safe rows of each kind, the first ones, on which ``"auto"`` measures its budget."""
