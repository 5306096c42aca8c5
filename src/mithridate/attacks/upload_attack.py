"""The base class of attacks that come as a data set for fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from datasets import Dataset
from pydantic import Field

from mithridate.attacks.attack_settings import NEEDS, AttackSettings, Need
from mithridate.attacks.attacked_rows import Message
from mithridate.data import mix
from mithridate.data.row_loading import check_columns
from mithridate.errors import UsageError


@dataclass(frozen=True)
class UploadInputs:
    """What an attacker has.

    Attributes:
        benign: Harmless rows, as `load_rows` returns them.
        harmful: The attacker's harmful rows.
        ratio: Share of each upload's rows that are the attacker's.
        size: Rows of each upload.
        seed: Seed of the draws and of the order.
        model: A model that the attacker can read, such as the aligned one or a stand-in for it.
        tokenizer: Its tokenizer.
    """

    benign: Dataset | None = None
    harmful: Dataset | None = None
    ratio: float = 1.0
    size: int = 100
    seed: int = 0
    model: Any = None
    tokenizer: Any = None

    @property
    def adversarial(self) -> int:
        """Rows of an upload that are the attacker's, rounded as `mix` rounds."""
        return round(self.ratio * self.size)

    def given(self, need: Need) -> bool:
        """Tell whether something is there."""
        return (self.model is not None and self.tokenizer is not None) if need == "model" else _of(self, need)


def _of(inputs: UploadInputs, need: Need) -> bool:
    return getattr(inputs, need) is not None


@dataclass(frozen=True)
class TrainingAsk:
    """Training settings that the attacker asks for; None leaves a setting to whoever trains.

    Attributes:
        epochs: Epochs.
        learning_rate: Learning rate.
        factor: What the learning rate is multiplied by, also one that is left to the trainer.
    """

    epochs: float | None = None
    learning_rate: float | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Round:
    """One upload; each is trained on from where the one before it ended.

    Attributes:
        rows: Rows with `prompt`, `completion`, `origin` and `harmful`, which is true on the attacker's rows; of a
            preference attack `prompt`, `chosen`, `rejected`, `origin` and `harmful`.
        asks: The training settings that the attacker asks for.
    """

    rows: Dataset
    asks: TrainingAsk = TrainingAsk()

    @property
    def adversarial(self) -> int:
        """Number of the attacker's rows."""
        return sum(self.rows["harmful"])


@dataclass(frozen=True)
class AttackedUpload:
    """What the attacker hands in, in order."""

    rounds: tuple[Round, ...]

    @property
    def adversarial(self) -> int:
        """Number of the attacker's rows, over all rounds."""
        return sum(one.adversarial for one in self.rounds)


class UploadAttack(AttackSettings):
    """An attack that comes as one or several data sets.

    Attributes:
        ask: Whether harmful prompts are asked after fine-tuning as the attacker asks them, or plainly.
        epochs: Epochs that the attacker asks for; null leaves them to whoever trains.
        learning_rate: Learning rate that the attacker asks for; likewise.
        preferences: Whether the rows are pairs of a preferred and a rejected answer, not prompts with completions.
    """

    preferences: ClassVar[bool] = False

    ask: Literal["attack", "plain"] = "attack"
    epochs: float | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)

    @property
    def asks(self) -> TrainingAsk:
        """The training settings that the attacker asks for."""
        return TrainingAsk(self.epochs, self.learning_rate)

    @property
    def trainings(self) -> tuple[TrainingAsk, ...]:
        """What the attacker asks for in each round, where that is known before the rows are."""
        return (self.asks,)

    def rows(self, inputs: UploadInputs) -> AttackedUpload:
        """Return the attacker's uploads, the same for the same inputs; harmless rows stay as they are.

        With a ratio of 0 there is one upload of harmless rows, drawn as `mix` draws them.

        Args:
            inputs: What the attacker has.

        Raises:
            UsageError: If something the attack needs is not given, a number is out of range, or rows are too few.
            DataError: If rows lack a column, or a prompt is both in harmless and in harmful rows.
        """
        if not 0 <= inputs.ratio <= 1 or inputs.size < 1:
            raise UsageError(
                f"The attack's ratio is {inputs.ratio} and its size {inputs.size}; the ratio must be from 0 to 1 and "
                "the size at least 1."
            )
        if inputs.ratio and not inputs.adversarial:
            raise UsageError(
                f"A ratio of {inputs.ratio:g} of {inputs.size} rows is less than one row of the attack; raise size or "
                "ratio, or set the ratio to 0."
            )
        # Harmless rows are not needed where the upload holds none and the attack is not made of them.
        needs: tuple[Need, ...] = self.needs if inputs.ratio else ("benign",)
        if inputs.ratio < 1 and "benign" not in needs:
            needs = (*needs, "benign")
        for need in needs:
            if not inputs.given(need):
                raise UsageError(f"the attack '{self.info.name}' needs {NEEDS[need]}; give {need}=")
        for name in ("benign", "harmful"):
            if getattr(inputs, name) is not None:
                check_columns(getattr(inputs, name), name)
        if not inputs.adversarial:
            assert inputs.benign is not None
            return AttackedUpload((Round(_benign(inputs.benign, inputs)),))
        return self.attacked(inputs)

    def attacked(self, inputs: UploadInputs) -> AttackedUpload:
        """Return the uploads; everything the attack needs is given, and at least one row is the attacker's."""
        raise NotImplementedError

    def prompt(self, question: str) -> list[Message]:
        """Return the conversation in which the attacker asks a question once the model is tuned."""
        return [{"role": "user", "content": question}]

    def reading(self, answer: str) -> str:
        """Return what the attacker reads in an answer."""
        return answer


def _benign(benign: Dataset, inputs: UploadInputs) -> Dataset:
    return mix(benign, benign.select([]), ratio=0, size=inputs.size, seed=inputs.seed)


def mixed(inputs: UploadInputs, adversarial: Dataset, seed: int | None = None) -> Dataset:
    """Mix an attack's rows with harmless ones in the shares that are asked for, as `mix` does."""
    # Without harmless rows there is nothing to draw from; `mix` needs columns all the same.
    benign = adversarial.select([]) if inputs.benign is None else inputs.benign
    return mix(benign, adversarial, ratio=inputs.ratio, size=inputs.size, seed=inputs.seed if seed is None else seed)
