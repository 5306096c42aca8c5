"""A pytest plugin for runs over mutated code: a light choice of tests, each mapped to all the code that it needs."""

import os
from pathlib import Path
from typing import Any

import pytest
from mutmut.state import state
from tests.helpers import training

import mithridate
from benchmarks.mutants import SECONDS

CASES = 3
"""Random cases that are kept of each test that is parametrized with ``case``."""


def pytest_configure() -> None:
    """The mutated copy is what the tests import, not the source that it was made from."""
    source = Path(mithridate.__file__).resolve()
    if not source.is_relative_to(Path.cwd().resolve()):
        raise pytest.UsageError(f"the tests would run on {source}, not on the mutated copy in {Path.cwd()}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The first random cases only; quick tests first, since the first failure ends a run, and as many as asked."""
    seconds = state().duration_by_test
    kept: list[pytest.Item] = []
    spent = 0.0
    for item in sorted((item for item in items if _case(item) < CASES), key=lambda item: seconds.get(item.nodeid, 0)):
        spent += seconds.get(item.nodeid, 0)
        if spent <= _budget() or not kept:
            kept.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _budget() -> float:
    """Seconds of tests for one mutant."""
    mutated = "__mutmut_" in os.environ.get("MUTANT_UNDER_TEST", "")
    return float(os.environ.get(SECONDS, "inf")) if mutated else float("inf")


def _case(item: pytest.Item) -> int:
    call = getattr(item, "callspec", None)
    return int(call.params.get("case", 0)) if call else 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Trainings that tests share are done anew for each while mutmut notes which test runs which function."""
    if os.environ.get("MUTANT_UNDER_TEST") == "stats":
        training._run.cache_clear()


_reached: dict[Any, set[str]] = {}
"""Functions run while a fixture was made that outlives one test."""


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Any:
    """What such a fixture runs counts for every test that uses it, not only for the first."""
    before = set(state()._stats)
    made = yield
    if fixturedef.scope != "function":
        _reached[fixturedef] = state()._stats - before
    return made


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    for definitions in item._fixtureinfo.name2fixturedefs.values():  # type: ignore[attr-defined]
        state()._stats.update(*(_reached.get(definition, ()) for definition in definitions))
