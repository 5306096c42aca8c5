"""A few kills of the tiny model's tuning; `python -m benchmarks.kills` takes twenty of the miniature's."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks.kills import Asked, kills, main, state_of

from tests.provider.conftest import policy, world  # noqa: F401  # fixtures


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_call_leaves_no_model_without_a_decision_and_goes_on(
    policy: dict[str, Any],  # noqa: F811
    world: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(policy), encoding="utf-8")
    found = kills(Asked(str(world / "model"), str(world / "user.jsonl"), str(file)), tmp_path / "kills", 2, seed=1)
    assert found["outcome"] == "released"
    for point in found["points"]:
        assert point["killed"]
        assert point["went on"]
        assert point["same decision"]
        assert point["same bytes"]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "point-0").mkdir()
    with pytest.raises(SystemExit, match="is in use; give an empty --out"):
        main(["--out", str(tmp_path), "--points", "1"])
    assert not (tmp_path / "aligned").exists()


def test_a_model_without_a_decision_would_be_seen(tmp_path: Path) -> None:
    assert state_of(tmp_path / "none") == "undecided, 0 stages begun or done"
    (tmp_path / "model").mkdir()
    with pytest.raises(AssertionError, match="without a decision"):
        state_of(tmp_path)
