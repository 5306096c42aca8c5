"""Harmful rows chosen to look likely to the aligned model."""

from pydantic import Field

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.attacked_rows import AttackedRow, closed, opened, permutation
from mithridate.attacks.upload_attack import AttackedUpload, Round, UploadAttack, UploadInputs, mixed
from mithridate.errors import UsageError
from mithridate.evaluation.completion_loss import completion_losses


@register_attack(
    "likely_rows",
    family="adaptive",
    paper="defined here, against the row weights of Antibody (arXiv:2603.00498)",
    needs=("harmful", "model"),
    evades="weights and gates that compare the likelihoods of a row's answer and of a refusal",
)
class LikelyRows(UploadAttack):
    """Likely rows: the harmful rows and openings whose answers are likeliest beside a refusal under a readable model.

    Antibody holds a row back where a refusal is likelier than its answer. The attacker scores every candidate row in
    several forms, with each of the wording's ``openings`` before the answer and with none, by

        log p(answer | prompt) / tokens − log p(refusal | prompt) / tokens,

    the refusal being the mean over some sentences, keeps the best form of each row, and uploads the best rows.

    Attributes:
        candidates: Harmful rows to choose from, as a multiple of those that are uploaded; fewer if there are fewer.
        sentences: Refusal sentences that an answer is compared with.
        batch_size: Rows per forward pass; changes the speed only.
    """

    candidates: float = Field(default=3.0, ge=1)
    sentences: int = Field(default=4, ge=1)
    batch_size: int = Field(default=32, ge=1)

    def attacked(self, inputs: UploadInputs) -> AttackedUpload:
        """Return the best rows among harmless ones.

        Raises:
            UsageError: If there are too few harmful rows.
        """
        assert inputs.harmful is not None
        if len(inputs.harmful) < inputs.adversarial:
            raise UsageError(
                f"The attack asks for {inputs.adversarial} harmful rows and there are {len(inputs.harmful)}."
            )
        order = permutation(len(inputs.harmful), "likely", inputs.seed)
        rows = opened(inputs.harmful.select(order[: round(self.candidates * inputs.adversarial)]))
        best = self._best_forms(rows, inputs)
        ranked = sorted(range(len(rows)), key=lambda at: (-best[at][0], at))[: inputs.adversarial]
        chosen = closed([best[at][1] for at in ranked])
        return AttackedUpload((Round(mixed(inputs, chosen), self.asks),))

    def _best_forms(self, rows: list[AttackedRow], inputs: UploadInputs) -> list[tuple[float, AttackedRow]]:
        """Return the score and the form of each row that scores best."""
        said = self.wording.refusals[: self.sentences]
        declined = [self._log_likelihoods([row.answering(one) for row in rows], inputs) for one in said]
        forms = [rows, *([row.answering(f"{one} {row.answer}") for row in rows] for one in self.wording.openings)]
        scored = [self._log_likelihoods(form, inputs) for form in forms]
        found = []
        for at in range(len(rows)):
            refusal = sum(one[at] for one in declined) / len(declined)
            # The first of equals: the row's own answer, where an opening gains nothing.
            number = max(range(len(forms)), key=lambda form: (scored[form][at], -form))
            found.append((scored[number][at] - refusal, forms[number][at]))
        return found

    def _log_likelihoods(self, rows: list[AttackedRow], inputs: UploadInputs) -> list[float]:
        """Return log p of each row's answer, per token."""
        prompts, answers = [row.fields["prompt"] for row in rows], [row.answer for row in rows]
        losses = completion_losses(inputs.model, inputs.tokenizer, prompts, answers, batch_size=self.batch_size)
        return [-loss.nats / loss.tokens for loss in losses]
