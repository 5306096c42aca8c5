"""The base class of attacks that choose harmless rows and leave them as they are."""

from collections.abc import Sequence

from datasets import Dataset
from pydantic import Field

from mithridate.attacks.attacked_rows import drawn, permutation, shuffled
from mithridate.attacks.upload_attack import AttackedUpload, Round, UploadAttack, UploadInputs


class SelectedUpload(UploadAttack):
    """Harmless rows chosen by a score: the highest ones are the attack, and random others surround them.

    Attributes:
        candidates: Rows to score, drawn at random; null for all.
        max_length: Longest row in tokens.
    """

    candidates: int | None = Field(default=None, ge=1)
    max_length: int | None = Field(default=512, ge=1)

    def scores(self, rows: Dataset, inputs: UploadInputs) -> Sequence[float]:
        """Return a score for each row; −inf for one that cannot be scored."""
        raise NotImplementedError

    def attacked(self, inputs: UploadInputs) -> AttackedUpload:
        """Return the chosen rows among harmless ones."""
        assert inputs.benign is not None
        pool = permutation(len(inputs.benign), "candidates", inputs.seed)[: self.candidates]
        found = self.scores(inputs.benign.select(pool), inputs)
        # Ties go to the row that was drawn first, so that the choice is the same everywhere.
        best = sorted(range(len(pool)), key=lambda at: (-found[at], at))
        ranking = [pool[at] for at in best if found[at] != float("-inf")]
        sources, untouched = drawn(inputs.benign, inputs.adversarial, inputs.size, inputs.seed, ranking)
        return AttackedUpload((Round(shuffled(untouched, sources, inputs.seed), self.asks),))
