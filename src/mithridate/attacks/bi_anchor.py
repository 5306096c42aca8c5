"""Harmless rows whose gradients lie nearest to those of harmful ones."""

import math
from collections.abc import Sequence

from datasets import Dataset
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.attacked_rows import AttackedRow, opened, permutation
from mithridate.attacks.row_gradients import row_gradients
from mithridate.attacks.selected_upload import SelectedUpload
from mithridate.attacks.upload_attack import UploadInputs


@register_attack(
    "bi_anchor",
    family="harmless-looking",
    paper="Bi-directional anchoring: He et al., COLM 2024 (arXiv:2404.01099)",
    needs=("benign", "harmful", "model"),
    evades="moderation of rows: every row is a harmless one of a public set, mostly lists and sums",
    constants={"anchors": 10, "first_tokens": 10, "rows": 100},
)
class BiAnchor(SelectedUpload):
    """Bi-directional anchoring: the harmless rows with the greatest ⟨ĝ, ĝ_harm⟩ − ⟨ĝ, ĝ_safe1⟩ − ⟨ĝ, ĝ_safe2⟩.

    ĝ is the unit gradient of a row's first answer tokens, and an anchor the mean of the unit gradients of a few rows:
    harmful ones, and the same prompts refused in one sentence and in several. The paper has 10 harmful anchors, 10
    answer tokens, weights +1, −1, −1, and takes the top 100 rows. Its safe sets are others, and its gradient is that of
    all weights; here it is that of the last MLP alone.

    Attributes:
        anchors: Harmful rows in an anchor.
        first_tokens: Tokens of each answer that count, from its start.
    """

    anchors: int = Field(default=10, ge=1)
    first_tokens: int = Field(default=10, ge=1)

    def scores(self, rows: Dataset, inputs: UploadInputs) -> Sequence[float]:
        """Return the score of each row, by one backward pass a row."""
        assert inputs.harmful is not None
        order = permutation(len(inputs.harmful), "anchors", inputs.seed)[: self.anchors]
        harmful = opened(inputs.harmful.select(order))
        said = self.wording.refusals
        alike = [row.answering(said[0]) for row in harmful]
        diverse = [row.answering(said[at % len(said)]) for at, row in enumerate(harmful)]
        # The score is linear in the anchors, so one vector stands for all three.
        anchor = self._anchor(harmful, inputs) - self._anchor(alike, inputs) - self._anchor(diverse, inputs)
        found = [-math.inf] * len(rows)
        for row, gradient in row_gradients(
            inputs.model,
            inputs.tokenizer,
            list(rows),
            first_tokens=self.first_tokens,
            max_length=self.max_length,
        ):
            found[row.row] = float(normalize(gradient, dim=0) @ anchor)
        return found

    def _anchor(self, rows: Sequence[AttackedRow], inputs: UploadInputs) -> Tensor:
        total, count = None, 0
        for _, gradient in row_gradients(
            inputs.model, inputs.tokenizer, [row.fields for row in rows], first_tokens=self.first_tokens
        ):
            unit = normalize(gradient, dim=0)
            total, count = unit if total is None else total + unit, count + 1
        assert total is not None  # `row_gradients` refuses rows without answers
        return total / count
