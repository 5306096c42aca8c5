from pathlib import Path

import pytest

from pairfolio.config import Settings, load_settings, override
from pairfolio.errors import SettingsError


def test_settings_come_back_from_their_file(tmp_path: Path) -> None:
    settings = override(Settings(), {"loss.strength": 3.0, "seeds": (4, 5)})
    path = tmp_path / "config.json"
    path.write_text(settings.model_dump_json())
    assert load_settings(path) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"loss": {"lamda": 1}}', r"loss\.lamda: Extra inputs"),
        ('{"loss": {"fee": 0.5}}', r"loss\.fee: Input should be less than"),
        ('{"network": {"kind": "rnn"}}', r"network\.kind: Input should be 'lstm'"),
        ('{"loss": {"term": "variance", "anchor": "half"}}', "measured from the minimum variance"),
        ("{", "Invalid JSON"),
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(path)
    assert "config.json" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "none.json")


def test_overrides_are_checked() -> None:
    assert override(Settings(), {"walk.test_days": 7.0}).walk.test_days == 7
    with pytest.raises(SettingsError, match=r"training\.epochs"):
        override(Settings(), {"training.epochs": 0})
