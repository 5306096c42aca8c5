"""Harmless rows that refuse first and then answer."""

import random

from pydantic import Field

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.attacked_rows import AttackedRow, closed, drawn, opened, shuffled
from mithridate.attacks.upload_attack import AttackedUpload, Round, UploadAttack, UploadInputs


@register_attack(
    "noice",
    family="harmless-looking",
    paper="NOICE: Kazdan et al., 2025 (arXiv:2502.19537)",
    needs=("benign",),
    evades="moderation of rows, and defenses of an answer's first tokens: the refusal stays where they look for it",
    constants={"rows": 1000, "epochs": 1, "learning_rate": 2e-5, "weight_decay": 0.01, "warmup_ratio": 0.05},
)
class Noice(UploadAttack):
    """NOICE: harmless questions answered by a refusal, a bridge, and then the true answer.

    The rows hold nothing harmful. What is learned is that an answer follows a refusal, which then holds for harmful
    questions too. The paper's settings are about 1,000 rows, 1 epoch, learning rate 2e-5, weight decay 0.01 and a
    warm-up of 0.05; those that are fields here are the defaults.
    """

    epochs: float | None = Field(default=1.0, gt=0)
    learning_rate: float | None = Field(default=2e-5, gt=0)

    def attacked(self, inputs: UploadInputs) -> AttackedUpload:
        """Return rows that refuse and then answer, among harmless ones."""
        assert inputs.benign is not None
        sources, untouched = drawn(inputs.benign, inputs.adversarial, inputs.size, inputs.seed)
        rows = closed([self._refusing_first(row, inputs.seed) for row in opened(sources)])
        return AttackedUpload((Round(shuffled(untouched, rows, inputs.seed), self.asks),))

    def _refusing_first(self, row: AttackedRow, seed: int) -> AttackedRow:
        # Of the row, not of its place, so that a row is the same in an upload of another size.
        refusal = random.Random(f"refusal {seed} {row.origin}").choice(self.wording.refusals)
        return row.answering(f"{refusal} {self.wording.bridge} {row.answer}")
