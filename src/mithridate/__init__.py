"""Mithridate: fine-tune on data nobody has vetted, and get a safe model back.

Every public name is imported on first use, so that ``import mithridate`` costs nothing. Defenses are found by their
class name in `mithridate.defenses`.
"""

import importlib
from typing import Any

from mithridate import errors, miniature

__all__ = ["errors", "miniature"]

_WHERE = {
    "ChatJudge": "evaluation.judges",
    "ClassifierJudge": "evaluation.judges",
    "DefendedTrainer": "training.trainer",
    "Defense": "defenses.base",
    "Gradient": "training.gradient",
    "Judge": "evaluation.judges",
    "REFUSALS": "data.refusals",
    "RefusalJudge": "evaluation.judges",
    "Repair": "defenses.base",
    "Score": "evaluation.intervals",
    "Step": "training.step",
    "finetune_accuracy": "evaluation.accuracy",
    "harmful_score": "evaluation.harmful_score",
    "load_rows": "data",
    "methods": "defenses.registry",
    "mix": "data",
    "register": "defenses.registry",
    "run": "pipeline.run",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"mithridate.{_WHERE[name]}"), name)
    if name[:1].isupper():
        from mithridate.defenses.registry import methods

        for info in methods().values():
            if info.cls.__name__ == name:
                return info.cls
    raise AttributeError(f"module 'mithridate' has no attribute '{name}'")


def __dir__() -> list[str]:
    from mithridate.defenses.registry import methods

    return sorted([*__all__, *_WHERE, *(info.cls.__name__ for info in methods().values())])
