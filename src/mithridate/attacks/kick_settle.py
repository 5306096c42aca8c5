"""First off the guarded direction, then the attack."""

from pydantic import Field

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.attacked_rows import closed, drawn, opened, permutation, shuffled
from mithridate.attacks.upload_attack import (
    AttackedUpload,
    Round,
    TrainingAsk,
    UploadAttack,
    UploadInputs,
    mixed,
)
from mithridate.errors import UsageError


@register_attack(
    "kick_settle",
    family="adaptive",
    paper="after the idea of Kick-Settle (arXiv:2605.14605), whose formulas were not at hand",
    needs=("benign", "harmful"),
    evades="defenses that flatten the harmful loss around the aligned weights or guard one direction from there",
)
class KickSettle(UploadAttack):
    """Kick and settle: an upload that throws the weights sideways, then an explicit attack from where they landed.

    The kick has harmless questions with the answers of other rows: nothing in it is harmful, its gradient is large and
    not the harmful one, and a learning rate ``kick`` times the usual one carries the weights out of the region that
    the defense prepared. The second upload is that of ``explicit``, whose harmless rows bring the task's accuracy back.
    It is this package's own construction from the paper's idea, not the authors' attack.

    Attributes:
        kick: What the learning rate of the first upload is multiplied by.
        kick_epochs: Epochs that the attacker asks for on the first upload; null leaves them to whoever trains.
    """

    kick: float = Field(default=5.0, gt=0)
    kick_epochs: float | None = Field(default=1.0, gt=0)

    @property
    def trainings(self) -> tuple[TrainingAsk, ...]:
        """The asks of kick and settling."""
        return TrainingAsk(self.kick_epochs, self.learning_rate, self.kick), self.asks

    def attacked(self, inputs: UploadInputs) -> AttackedUpload:
        """Return the two uploads; the first has as many rows of the attacker as the second.

        Raises:
            UsageError: If the attack has a single row, whose answer cannot be swapped with another's.
        """
        assert inputs.benign is not None
        assert inputs.harmful is not None
        if inputs.adversarial < 2:
            raise UsageError("a kick swaps answers between rows and there is only one; raise size or ratio")
        sources, untouched = drawn(inputs.benign, inputs.adversarial, inputs.size, inputs.seed)
        rows = opened(sources)
        # A cycle through a random order, so that no row keeps its own answer.
        order = permutation(len(rows), "kick", inputs.seed)
        following = dict(zip(order, [*order[1:], order[0]], strict=True))
        swapped = closed([row.answering(rows[following[at]].answer) for at, row in enumerate(rows)])
        uploads = shuffled(untouched, swapped, inputs.seed), mixed(inputs, inputs.harmful)
        return AttackedUpload(tuple(map(Round, uploads, self.trainings)))
