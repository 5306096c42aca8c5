"""Which defenses exist, and what each needs and costs."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from mithridate.errors import UsageError
from mithridate.nearest import nearest
from mithridate.settings import STAGES, Info, Settings, Stage

_REGISTRY: dict[str, Info] = {}
_Class = TypeVar("_Class", bound=type[Settings])


def register(
    name: str,
    *,
    stage: Stage | tuple[Stage, ...],
    paper: str,
    streams: tuple[str, ...] = (),
    forward: int,
    backward: int,
    off: dict[str, Any],
    references: tuple[str, ...] = (),
    extra: str = "",
    vectors: int = 0,
    precise: bool = False,
) -> Callable[[_Class], _Class]:
    """Class decorator that makes a defense known under ``name`` (see `Info` for the arguments)."""

    def decorate(cls: _Class) -> _Class:
        if name in _REGISTRY:
            raise ValueError(f"two defenses are called '{name}'")
        stages = (stage,) if isinstance(stage, str) else stage
        info = Info(name, cls, stages, paper, streams, forward, backward, off, references, extra, vectors, precise)
        cls.info = _REGISTRY[name] = info
        return cls

    return decorate


def methods() -> dict[str, Info]:
    """Return all defenses by name, sorted by stage and name: those of this folder's files, and those of plug-ins.

    Raises:
        UsageError: If a plug-in cannot be loaded.
    """
    package = importlib.import_module("mithridate.defenses")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    from mithridate.defenses.plugins import load_named  # here, because a plug-in's loading reads this table

    load_named()
    ordered = sorted(_REGISTRY.values(), key=lambda info: (STAGES.index(info.stages[0]), info.name))
    return {info.name: info for info in ordered}


@contextmanager
def rolled_back_on_failure() -> Iterator[dict[str, Info]]:
    """Inside the block the table of registrations can be added to; it is as before if the block fails."""
    before = dict(_REGISTRY)
    try:
        yield _REGISTRY
    except BaseException:
        _REGISTRY.clear()
        _REGISTRY.update(before)
        raise


def method(name: str, stage: Stage | None = None) -> Info:
    """Look a defense up.

    Raises:
        UsageError: If there is none of this name, or it does not act at this stage.
    """
    known = methods()
    if name not in known:
        near = nearest(name, (n for n, i in known.items() if stage is None or stage in i.stages))
        hint = f"; did you mean '{near}'?" if near else ""
        raise UsageError(f"no defense is called '{name}'; known: {', '.join(known)}{hint}")
    info = known[name]
    if stage is not None and stage not in info.stages:
        fitting = ", ".join(n for n, i in known.items() if stage in i.stages)
        raise UsageError(f"'{name}' does not act at the stage {stage}; these do: {fitting}")
    return info
