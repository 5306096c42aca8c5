"""Harmless rows that influence themselves most."""

import math
from collections.abc import Sequence

from datasets import Dataset

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.row_gradients import answer_length, row_gradients
from mithridate.attacks.selected_upload import SelectedUpload
from mithridate.attacks.upload_attack import UploadInputs


@register_attack(
    "self_inf_n",
    family="harmless-looking",
    paper="Self-Inf-N: Guan et al., ICML 2025 (arXiv:2505.06843)",
    needs=("benign", "model"),
    evades="moderation of rows: every row is a harmless one of a public set",
    constants={"rows": 100},
)
class SelfInfN(SelectedUpload):
    """Self-Inf-N: the harmless rows with the greatest log(‖∇L(z)‖² + 1) + log(|z| + 1).

    ‖∇L(z)‖² is the influence of a row on itself; |z|, the tokens of its answer, keeps short rows from being chosen for
    their length. The paper takes the top 100 rows. The gradient is that of the last MLP alone, not of all weights.
    """

    def scores(self, rows: Dataset, inputs: UploadInputs) -> Sequence[float]:
        """Return the score of each row, by one backward pass a row."""
        found = [-math.inf] * len(rows)
        for row, gradient in row_gradients(inputs.model, inputs.tokenizer, list(rows), max_length=self.max_length):
            found[row.row] = math.log1p(float(gradient.double().square().sum())) + math.log1p(answer_length(row))
        return found
