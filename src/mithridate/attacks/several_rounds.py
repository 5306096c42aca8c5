"""One attack in several uploads."""

import itertools

from pydantic import Field

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.upload_attack import AttackedUpload, Round, TrainingAsk, UploadAttack, UploadInputs, mixed
from mithridate.errors import UsageError


@register_attack(
    "several_rounds",
    family="adaptive",
    paper="no published protocol; defined here",
    needs=("harmful",),
    evades="limits on one job: each upload is a small one, and each is trained on from where the last one ended",
)
class SeveralRounds(UploadAttack):
    """Several rounds: the rows of one explicit attack, cut into k uploads of about the same size.

    Together they are the rows of ``explicit`` at the same ratio, size and seed, so that the two differ in nothing but
    the number of jobs.

    Attributes:
        rounds: k, number of uploads.
    """

    rounds: int = Field(default=3, ge=2)

    @property
    def trainings(self) -> tuple[TrainingAsk, ...]:
        """The same ask in every round."""
        return (self.asks,) * self.rounds

    def attacked(self, inputs: UploadInputs) -> AttackedUpload:
        """Return the k uploads.

        Raises:
            UsageError: If there is less than one row for each.
        """
        assert inputs.harmful is not None
        if inputs.size < self.rounds:
            raise UsageError(f"{inputs.size} rows cannot be cut into {self.rounds} uploads; raise size or lower rounds")
        rows = mixed(inputs, inputs.harmful)
        cuts = [round(i * len(rows) / self.rounds) for i in range(self.rounds + 1)]
        parts = [rows.select(range(start, end)) for start, end in itertools.pairwise(cuts)]
        return AttackedUpload(tuple(Round(part, self.asks) for part in parts))
