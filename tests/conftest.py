"""Settings of every test: one thread, no network, quiet libraries, and the same Hypothesis examples every time."""

import functools
import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MITHRIDATE_DATA", "../shared")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import pytest
from hypothesis import HealthCheck, settings
from jinja2 import Template

# Every checkpoint has a model card, whose template takes longer to compile than to fill.
Template.__new__ = staticmethod(functools.cache(Template.__new__))  # type: ignore[method-assign]

settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """At every commit Hypothesis tries fewer examples than every night (see `tests.helpers.examples`)."""
    if config.getoption("markexpr") == "not slow":
        settings.register_profile("commit", settings.default, max_examples=40)
        settings.load_profile("commit")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave the imported libraries out of garbage collection.

    Every training ends with a full collection (`accelerate.Accelerator.free_memory`), which would walk over all of them
    and take longer than the training of a tiny model.
    """
    _leave_out()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Leave out what the last file's tests have imported too, once its fixtures are gone."""
    if nextitem is not None and nextitem.path != item.path:
        _leave_out()


def _leave_out() -> None:
    gc.collect()
    gc.freeze()
