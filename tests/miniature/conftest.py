"""A base model small enough to be made anew in a test."""

from pathlib import Path

import pytest

from mithridate import miniature
from mithridate.miniature import model


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model of size ``tiny``, pretrained in full (about 5 s)."""
    return miniature.base(tmp_path_factory.mktemp("cache"), "tiny")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretraining of size ``tiny`` over a few rows only: for what does not depend on skill."""
    monkeypatch.setitem(model.SIZES, "tiny", model.SIZES["tiny"]._replace(rows=64))
