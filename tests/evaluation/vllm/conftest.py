"""A stand-in for vLLM's environment, and one server of it that answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch
from tests.evaluation.conftest import make_model, make_tokenizer
from tests.helpers.vllm_stand_in import make_python
from transformers import PreTrainedModel

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


class Answering(NamedTuple):
    """A server that answers.

    Attributes:
        served: The tiny model, as it is served.
        notes: The stand-in's notes.
        changed: The model that was served, whose weights are others by now.
    """

    served: ModelOnVllm
    notes: Path
    changed: PreTrainedModel


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answering]:
    """The tiny model, served and then changed, as every test sees that asks for an answer."""
    folder, model = tmp_path_factory.mktemp("stand-in"), make_model()
    with pytest.MonkeyPatch.context() as patch:
        StandIn(folder, patch)
        with served_by_vllm(model, make_tokenizer()) as served:
            with torch.no_grad():
                model.lm_head.weight.normal_()
            yield Answering(served, folder, model)
