"""Mithridate: fine-tune on data nobody has vetted, and get a safe model back.

Every public name is imported on first use, so that ``import mithridate`` costs nothing; type checkers and editors read
the imports below. A defense is found by its class name in `mithridate.defenses`, a plug-in's too.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mithridate import attacks, errors, miniature

if TYPE_CHECKING:
    __version__: str
    from mithridate.data import load_rows, mix
    from mithridate.data.refusals import REFUSALS
    from mithridate.defenses.antibody import AntibodyAlignment, AntibodyTuning
    from mithridate.defenses.antidote import Antidote
    from mithridate.defenses.bds import BDS
    from mithridate.defenses.booster import Booster
    from mithridate.defenses.constrained_sft import ConstrainedSFT
    from mithridate.defenses.deep_alignment import DeepAlignment
    from mithridate.defenses.joint_alignment import JointAlignment
    from mithridate.defenses.ldifs import LDIFS
    from mithridate.defenses.lisa import Lisa
    from mithridate.defenses.lox import LoX, LoXAlignment
    from mithridate.defenses.panacea import Panacea, PanaceaTuning
    from mithridate.defenses.plugins import load_plugins
    from mithridate.defenses.ptst import PTST
    from mithridate.defenses.random_perturbation import RandomPerturbation
    from mithridate.defenses.realign import Realign
    from mithridate.defenses.registry import methods, register
    from mithridate.defenses.repnoise import RepNoise
    from mithridate.defenses.resta import RESTA
    from mithridate.defenses.safe_delta import SafeDelta
    from mithridate.defenses.safe_lora import SafeLoRA
    from mithridate.defenses.safegrad import SafeGrad
    from mithridate.defenses.safety_mixing import SafetyMixing, VLGuard
    from mithridate.defenses.salora import SaLoRA
    from mithridate.defenses.sbr import SBR
    from mithridate.defenses.sft import SFT
    from mithridate.defenses.tar import TAR
    from mithridate.defenses.vaccine import TVaccine, Vaccine
    from mithridate.defenses.wise_ft import WiSEFT
    from mithridate.evaluation.accuracy import finetune_accuracy
    from mithridate.evaluation.harmful_score import harmful_score
    from mithridate.evaluation.intervals import Score
    from mithridate.evaluation.judges import ChatJudge, ClassifierJudge, GuardJudge, Judge, RefusalJudge, Verdict
    from mithridate.evaluation.over_refusal import over_refusal
    from mithridate.evaluation.vllm.serving import served_by_vllm
    from mithridate.experiment.checkpoint_repair import repair_checkpoint
    from mithridate.experiment.engine import run
    from mithridate.gates.provider import GateProvider
    from mithridate.gates.upload_gate import UploadGate
    from mithridate.gates.upload_verdict import UploadVerdict
    from mithridate.planning.recipe_plan import plan
    from mithridate.provider.aligning import align
    from mithridate.provider.decision import Decision
    from mithridate.provider.hand_over import verify_release
    from mithridate.provider.policy_tree import Policy
    from mithridate.provider.tuning import tune
    from mithridate.repair.post_tuning import Repair
    from mithridate.training.defense import Defense
    from mithridate.training.gradient import Gradient
    from mithridate.training.step import Step
    from mithridate.training.trainer import DefendedTrainer
    from mithridate.worst_case.search import redteam

__all__ = [
    "BDS",
    "LDIFS",
    "PTST",
    "REFUSALS",
    "RESTA",
    "SBR",
    "SFT",
    "TAR",
    "AntibodyAlignment",
    "AntibodyTuning",
    "Antidote",
    "Booster",
    "ChatJudge",
    "ClassifierJudge",
    "ConstrainedSFT",
    "Decision",
    "DeepAlignment",
    "DefendedTrainer",
    "Defense",
    "GateProvider",
    "Gradient",
    "GuardJudge",
    "JointAlignment",
    "Judge",
    "Lisa",
    "LoX",
    "LoXAlignment",
    "Panacea",
    "PanaceaTuning",
    "Policy",
    "RandomPerturbation",
    "Realign",
    "RefusalJudge",
    "RepNoise",
    "Repair",
    "SaLoRA",
    "SafeDelta",
    "SafeGrad",
    "SafeLoRA",
    "SafetyMixing",
    "Score",
    "Step",
    "TVaccine",
    "UploadGate",
    "UploadVerdict",
    "VLGuard",
    "Vaccine",
    "Verdict",
    "WiSEFT",
    "align",
    "attacks",
    "errors",
    "finetune_accuracy",
    "harmful_score",
    "load_plugins",
    "load_rows",
    "methods",
    "miniature",
    "mix",
    "over_refusal",
    "plan",
    "redteam",
    "register",
    "repair_checkpoint",
    "run",
    "served_by_vllm",
    "tune",
    "verify_release",
]

_MODULES = {
    "ChatJudge": "evaluation.judges",
    "ClassifierJudge": "evaluation.judges",
    "Decision": "provider.decision",
    "DefendedTrainer": "training.trainer",
    "Defense": "training.defense",
    "GateProvider": "gates.provider",
    "Gradient": "training.gradient",
    "GuardJudge": "evaluation.judges",
    "Judge": "evaluation.judges",
    "Policy": "provider.policy_tree",
    "REFUSALS": "data.refusals",
    "RefusalJudge": "evaluation.judges",
    "Repair": "repair.post_tuning",
    "Score": "evaluation.intervals",
    "Step": "training.step",
    "UploadGate": "gates.upload_gate",
    "UploadVerdict": "gates.upload_verdict",
    "Verdict": "evaluation.judges",
    "align": "provider.aligning",
    "finetune_accuracy": "evaluation.accuracy",
    "harmful_score": "evaluation.harmful_score",
    "load_plugins": "defenses.plugins",
    "load_rows": "data",
    "methods": "defenses.registry",
    "mix": "data",
    "over_refusal": "evaluation.over_refusal",
    "plan": "planning.recipe_plan",
    "redteam": "worst_case.search",
    "register": "defenses.registry",
    "repair_checkpoint": "experiment.checkpoint_repair",
    "run": "experiment.engine",
    "served_by_vllm": "evaluation.vllm.serving",
    "tune": "provider.tuning",
    "verify_release": "provider.hand_over",
}
"""Where public names are; defenses are found in their catalog."""


if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept every name

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(importlib.import_module(f"mithridate.{_MODULES[name]}"), name)
        if name == "__version__":
            from importlib.metadata import version

            return version("mithridate")
        if name.startswith("_"):  # asked by tools, for which nothing need be imported
            raise AttributeError(f"module 'mithridate' has no attribute '{name}'")
        from mithridate.defenses.catalog import listed

        for listing in listed().values():
            if listing.class_name == name:
                return getattr(importlib.import_module(listing.module), name)
        return _from_plugin(name)

    def _from_plugin(name: str) -> Any:
        from mithridate.defenses.plugins import any_named
        from mithridate.nearest import nearest

        classes: dict[str, Any] = {}
        if any_named():
            from mithridate.defenses.registry import methods

            classes = {info.cls.__name__: info.cls for info in methods().values()}
        if name in classes:
            return classes[name]
        near = nearest(name, [*__all__, *classes])
        hint = f"; did you mean '{near}'?" if near else ""
        raise AttributeError(f"module 'mithridate' has no attribute '{name}'{hint}")

    def __dir__() -> list[str]:
        return sorted(__all__)
