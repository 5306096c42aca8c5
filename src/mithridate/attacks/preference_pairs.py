"""Harmless questions with their answer preferred to a refusal."""

import random
from typing import Any, ClassVar

from datasets import Dataset, Features, Value

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.attacked_rows import AttackedRow, drawn, opened
from mithridate.attacks.upload_attack import AttackedUpload, Round, UploadAttack, UploadInputs
from mithridate.data.row_loading import FEATURES
from mithridate.errors import UsageError

_PAIRS = Features(
    {
        "prompt": FEATURES["prompt"],
        "chosen": FEATURES["completion"],
        "rejected": FEATURES["completion"],
        "origin": Value("string"),
        "harmful": Value("bool"),
    }
)


@register_attack(
    "benign_dpo",
    family="harmless-looking",
    paper="Benign preference tuning, 2026 (arXiv:2605.10998)",
    needs=("benign",),
    evades="moderation of rows: helpful answers to harmless questions are preferred to needless refusals",
    constants={"pairs": 10},
)
class BenignPreferences(UploadAttack):
    """Benign DPO: pairs of a helpful answer (chosen) and a refusal (rejected) to harmless questions.

    The rows are data for preference tuning, which this package does not do: a recipe refuses the attack, and a gate
    can judge the rows by their form. The paper has 10 pairs.
    """

    preferences: ClassVar[bool] = True

    def attacked(self, inputs: UploadInputs) -> AttackedUpload:
        """Return the pairs.

        Raises:
            UsageError: If the ratio is below 1; rows without a rejected answer do not fit into the same upload.
        """
        if inputs.ratio < 1:
            raise UsageError(f"an upload of preferences holds pairs alone; set the ratio to 1, not {inputs.ratio:g}")
        assert inputs.benign is not None
        sources, _ = drawn(inputs.benign, inputs.size, inputs.size, inputs.seed)
        pairs = [self._pair(row, inputs.seed) for row in opened(sources)]
        return AttackedUpload((Round(Dataset.from_list(pairs, features=_PAIRS), self.asks),))

    def _pair(self, row: AttackedRow, seed: int) -> dict[str, Any]:
        refusal = random.Random(f"rejected {seed} {row.origin}").choice(self.wording.refusals)
        return {
            "prompt": row.fields["prompt"],
            "chosen": row.fields["completion"],
            "rejected": row.answering(refusal).fields["completion"],
            "origin": row.origin,
            "harmful": True,
        }
