"""A few harmless questions: first the same refusal to all, then their answers."""

from typing import Literal

from pydantic import Field

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.attack_settings import Need
from mithridate.attacks.attacked_rows import AttackedRow, closed, drawn, opened, shuffled
from mithridate.attacks.upload_attack import AttackedUpload, Round, TrainingAsk, UploadAttack, UploadInputs
from mithridate.evaluation.generation import generate_chats


@register_attack(
    "ten_shot",
    family="harmless-looking",
    paper="Ten-shot overfitting, 2025 (arXiv:2510.02833)",
    needs=("benign",),
    evades="moderation of rows: every question and every answer is harmless",
    constants={"rows": 10, "refusal_epochs": 10, "epochs": 10, "learning_rate": 5e-5},
)
class TenShot(UploadAttack):
    """Ten-shot overfitting: harmless questions, in a first upload all refused alike, in a second one answered.

    The first upload makes the model refuse everything; unlearning that with a few answers takes its refusals away
    where they were due. The paper has 10 rows and nothing else (ratio 1, size 10), 10 epochs for each upload and
    learning rate 5e-5. It found almost no effect where the answers are the model's own, so both are here.

    Attributes:
        answers: Whether the second upload has the rows' answers, or the model's own ones.
        refusal_epochs: Epochs that the attacker asks for on the first upload; null leaves them to whoever trains.
        max_new_tokens: Longest answer of the model's own, in tokens.
    """

    answers: Literal["rows", "model"] = "rows"
    refusal_epochs: float | None = Field(default=10.0, gt=0)
    epochs: float | None = Field(default=10.0, gt=0)
    learning_rate: float | None = Field(default=5e-5, gt=0)
    max_new_tokens: int = Field(default=128, ge=1)

    @property
    def needs(self) -> tuple[Need, ...]:
        """Harmless rows, and a model to answer them with where the answers are to be its own."""
        return ("benign",) if self.answers == "rows" else ("benign", "model")

    @property
    def trainings(self) -> tuple[TrainingAsk, ...]:
        """The asks of the two uploads."""
        return TrainingAsk(self.refusal_epochs, self.learning_rate), self.asks

    def attacked(self, inputs: UploadInputs) -> AttackedUpload:
        """Return the two uploads, with the same questions and the same untouched rows."""
        assert inputs.benign is not None
        sources, untouched = drawn(inputs.benign, inputs.adversarial, inputs.size, inputs.seed)
        questions = opened(sources)
        # One sentence for all rows: what is overfitted is that it answers every question.
        refused = [row.answering(self.wording.refusals[0]) for row in questions]
        answered = questions if self.answers == "rows" else self._own(questions, inputs)
        parts = zip((refused, answered), self.trainings, strict=True)
        return AttackedUpload(
            tuple(Round(shuffled(untouched, closed(rows), inputs.seed), asks) for rows, asks in parts)
        )

    def _own(self, questions: list[AttackedRow], inputs: UploadInputs) -> list[AttackedRow]:
        chats = [row.fields["prompt"] for row in questions]
        said = generate_chats(inputs.model, inputs.tokenizer, chats, max_new_tokens=self.max_new_tokens)
        return [row.answering(answer) for row, answer in zip(questions, said, strict=True)]
