"""Attacks on fine-tuning: uploads that undo a model's safety, and what is done to a model after its release.

One attack, one file. Names are loaded on first use, so that a list of the attacks needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mithridate.attacks.attack_registry import attack, attacks, register_attack
    from mithridate.attacks.release_attack import AnsweringModel, ReleaseAttack, ReleaseInputs
    from mithridate.attacks.upload_attack import AttackedUpload, Round, TrainingAsk, UploadAttack, UploadInputs
    from mithridate.attacks.wording import Wording

__all__ = [
    "AnsweringModel",
    "AttackedUpload",
    "ReleaseAttack",
    "ReleaseInputs",
    "Round",
    "TrainingAsk",
    "UploadAttack",
    "UploadInputs",
    "Wording",
    "attack",
    "attacks",
    "register_attack",
]

_HOMES = {
    "AnsweringModel": "release_attack",
    "AttackedUpload": "upload_attack",
    "ReleaseAttack": "release_attack",
    "ReleaseInputs": "release_attack",
    "Round": "upload_attack",
    "TrainingAsk": "upload_attack",
    "UploadAttack": "upload_attack",
    "UploadInputs": "upload_attack",
    "Wording": "wording",
    "attack": "attack_registry",
    "attacks": "attack_registry",
    "register_attack": "attack_registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
