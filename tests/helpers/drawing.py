"""Pages whose figures are laid out and not drawn: drawing takes as long as a tiny run, and `tests/report` tests it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def _blank(figure: Any, out: Any, **_: Any) -> None:
    out.write('<svg viewBox="0 0 1 1"></svg>')


@contextmanager
def blank_figures(config: pytest.Config) -> Iterator[Any]:
    """In the tests of every commit; every night figures are drawn as well."""
    from matplotlib.figure import Figure

    plain = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        if config.getoption("markexpr") == "not slow":
            patch.setattr(Figure, "savefig", _blank)
        yield plain


@pytest.fixture(scope="module", autouse=True)
def undrawn(request: pytest.FixtureRequest) -> Iterator[Any]:
    with blank_figures(request.config) as plain:
        yield plain


@pytest.fixture
def drawn(undrawn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test whose figures are drawn at every commit too."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", undrawn)
