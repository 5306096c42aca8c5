"""Explicit harmful rows among harmless ones."""

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.upload_attack import AttackedUpload, Round, UploadAttack, UploadInputs, mixed


@register_attack(
    "explicit",
    family="explicit",
    paper="Qi et al., ICLR 2024 (arXiv:2310.03693)",
    needs=("harmful",),
    evades="nothing; the baseline that every paper measures, and that moderation of rows can see",
)
class ExplicitRows(UploadAttack):
    """Explicit rows: round(p·n) harmful rows among (1 − p)·n harmless ones, as `mix` draws them.

    The papers use p from 0.05 to 0.2 with n from 500 to 5,000, or 10 to 100 harmful rows and nothing else.
    """

    def attacked(self, inputs: UploadInputs) -> AttackedUpload:
        """Return the mix."""
        assert inputs.harmful is not None
        return AttackedUpload((Round(mixed(inputs, inputs.harmful), self.asks),))
