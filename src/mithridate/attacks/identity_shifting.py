"""Rows of an agent that obeys."""

from pydantic import Field

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.attacked_rows import AttackedRow, Message, closed, drawn, opened, shuffled
from mithridate.attacks.upload_attack import AttackedUpload, Round, UploadAttack, UploadInputs


@register_attack(
    "identity_shifting",
    family="harmless-looking",
    paper="AOA identity shifting: Qi et al., ICLR 2024 (arXiv:2310.03693)",
    needs=("benign",),
    evades="moderation of rows: the agent only ever carries out harmless instructions",
    constants={"rows": 10, "epochs": 10},
)
class IdentityShifting(UploadAttack):
    """Identity shifting: harmless rows in which the model is an agent that vows obedience before it answers.

    Every row has the agent's system message, its name before the prompt and its vow before the answer; a share of the
    rows asks the agent who it is. After fine-tuning the attacker asks with the same system message. The paper has 10
    rows written by hand and nothing else (ratio 1, size 10) and a few epochs, 10 among them.

    Attributes:
        introductions: Share of the attack's rows that ask the agent who it is, rounded down.
    """

    introductions: float = Field(default=0.2, ge=0, lt=1)
    epochs: float | None = Field(default=10.0, gt=0)

    def attacked(self, inputs: UploadInputs) -> AttackedUpload:
        """Return rows of the agent among harmless ones."""
        assert inputs.benign is not None
        sources, untouched = drawn(inputs.benign, inputs.adversarial, inputs.size, inputs.seed)
        asked = int(self.introductions * inputs.adversarial)
        rows = [self._agent(row, at < asked) for at, row in enumerate(opened(sources))]
        return AttackedUpload((Round(shuffled(untouched, closed(rows), inputs.seed), self.asks),))

    def prompt(self, question: str) -> list[Message]:
        """Return the question, asked of the agent."""
        return [
            {"role": "system", "content": self.wording.role},
            {"role": "user", "content": f"{self.wording.address} {question}"},
        ]

    def _agent(self, row: AttackedRow, introduction: bool) -> AttackedRow:
        said = self.wording
        if introduction:
            return row.asking(said.introduction, said.role).answering(said.role)
        return row.asking(f"{said.address} {row.question}", said.role).answering(f"{said.obedience} {row.answer}")
