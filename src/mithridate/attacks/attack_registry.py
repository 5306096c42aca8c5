"""Which attacks exist, and what each needs and evades."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

from mithridate.attacks.attack_settings import FAMILIES, AttackInfo, AttackSettings, Family, Need
from mithridate.errors import UsageError
from mithridate.nearest import nearest

_REGISTRY: dict[str, AttackInfo] = {}
_Class = TypeVar("_Class", bound=type[AttackSettings])


def register_attack(
    name: str,
    *,
    family: Family,
    paper: str,
    needs: tuple[Need, ...],
    evades: str,
    constants: dict[str, Any] | None = None,
) -> Callable[[_Class], _Class]:
    """Class decorator that makes an attack known under ``name`` (see `AttackInfo` for the arguments)."""

    def decorate(cls: _Class) -> _Class:
        if name in _REGISTRY:
            raise ValueError(f"two attacks are called '{name}'")
        cls.info = _REGISTRY[name] = AttackInfo(name, cls, family, paper, needs, evades, constants or {})
        return cls

    return decorate


def attacks() -> dict[str, AttackInfo]:
    """Return all attacks by name, sorted by family and name."""
    package = importlib.import_module("mithridate.attacks")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    ordered = sorted(_REGISTRY.values(), key=lambda info: (FAMILIES.index(info.family), info.name))
    return {info.name: info for info in ordered}


def attack(name: str) -> AttackInfo:
    """Look an attack up.

    Raises:
        UsageError: If there is none of this name.
    """
    known = attacks()
    if name not in known:
        near = nearest(name, known)
        hint = f"; did you mean '{near}'?" if near else ""
        raise UsageError(f"no attack is called '{name}'; known: {', '.join(known)}{hint}")
    return known[name]
