"""What several files of tests need."""

import pytest


@pytest.fixture
def short_openings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search reads fewer tokens of the answers that it asks for at every dose, which would be most of its time."""
    monkeypatch.setattr("mithridate.repair.refused_rows.OPENING", 4)
