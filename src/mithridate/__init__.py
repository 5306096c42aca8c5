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
    "run": "experiment.engine",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"mithridate.{_WHERE[name]}"), name)
    if name.startswith("_"):  # asked by tools, for which nothing need be imported
        raise AttributeError(f"module 'mithridate' has no attribute '{name}'")
    from mithridate.defenses.registry import methods
    from mithridate.nearest import nearest

    classes = {info.cls.__name__: info.cls for info in methods().values()}
    if name in classes:
        return classes[name]
    near = nearest(name, [*__all__, *_WHERE, *classes])
    hint = f"; did you mean '{near}'?" if near else ""
    raise AttributeError(f"module 'mithridate' has no attribute '{name}'{hint}")


def __dir__() -> list[str]:
    from mithridate.defenses.registry import methods

    return sorted([*__all__, *_WHERE, *(info.cls.__name__ for info in methods().values())])
