"""A stand-in for vLLM's environment, and one server of it that answers."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.evaluation.conftest import make_model, make_tokenizer
from tests.helpers.vllm_stand_in import make_python

from mithridate.evaluation.vllm import environment
from mithridate.evaluation.vllm.served_model import ModelOnVllm
from mithridate.evaluation.vllm.serving import served_by_vllm


class StandIn:
    """The stand-in's folder of notes, and how it fails."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, patch
        patch.setenv("STAND_IN_NOTES", str(folder))
        patch.setenv(environment.PYTHON, str(make_python(folder)))

    def fails(self, fault: str) -> None:
        self._patch.setenv("STAND_IN", fault)

    def alive(self) -> bool:
        """Whether the server's own child still runs."""
        pid = int((self.folder / "child").read_text())
        return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModelOnVllm, Path]]:
    """The tiny model, served, and the stand-in's notes."""
    folder = tmp_path_factory.mktemp("stand-in")
    with pytest.MonkeyPatch.context() as patch:
        StandIn(folder, patch)
        with served_by_vllm(make_model(), make_tokenizer()) as served:
            yield served, folder
