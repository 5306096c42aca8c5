"""vLLM that is not there, dies, hangs or answers something else: an error that says so, and nothing is left."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from tests.evaluation.conftest import make_model, make_tokenizer
from tests.evaluation.vllm.conftest import StandIn
from tests.matrix.row import thinned

from mithridate.errors import ModelError, UsageError
from mithridate.evaluation.generation import generate
from mithridate.evaluation.vllm import served_model, server
from mithridate.evaluation.vllm.environment import PYTHON, check_version
from mithridate.evaluation.vllm.served_model import ModelOnVllm
from mithridate.evaluation.vllm.serving import served_by_vllm
from mithridate.experiment.process_context import Surroundings, process_context


@pytest.fixture
def near() -> Iterator[Path]:
    """Folder with a short path, since that of a socket may have 100 characters or so."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def left(near: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of temporary folders, which is to be empty in the end."""
    monkeypatch.setattr(tempfile, "tempdir", str(near))
    return near


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModelOnVllm, Path]]:
    """A server without weights, and the file that tells it how to fail."""
    folder = tmp_path_factory.mktemp("failing")
    with pytest.MonkeyPatch.context() as patch:
        StandIn(folder, patch).fails("cut")
        with served_by_vllm(make_model(), make_tokenizer()) as served:
            yield served, folder / "fault"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("wrong model", "vLLM answered for the model 'another'"),
        ("garbage", "vLLM sent what is no part of an answer: .*surprise"),
        ("fails", "vLLM failed: EngineCore encountered an issue; use the engine transformers"),
        ("fewer", "vLLM ended an answer of 0 tokens by 'nothing'"),
        ("short", "vLLM ended an answer of 3 tokens by 'length'"),
        ("cut", "vLLM sent a reply that ends in the middle"),
        ("nan", "vLLM found NaN or Inf in the logits of prompt 0"),
        ("other prompt", "vLLM read another prompt 0 than it was asked"),
        ("refuses", "vLLM refused the prompts with status 400: .*no room for these prompts"),
    ],
)
def test_an_answer_that_is_none_is_an_error(failing, tokenizer, fault: str, message: str) -> None:
    served, told = failing
    told.write_text(fault)
    with pytest.raises(ModelError, match=message):
        generate(served, tokenizer, ["a", "b"], max_new_tokens=4)
    told.write_text("none")
    assert len(generate(served, tokenizer, ["a", "b"], max_new_tokens=4)) == 2


def test_a_server_that_dies_when_asked_is_an_error(model, tokenizer, stand_in: StandIn, left: Path) -> None:
    stand_in.fails("dies when asked")
    with served_by_vllm(model, tokenizer) as served:
        assert stand_in.alive()
        with pytest.raises(ModelError, match=r"(?s)vLLM stopped answering.*transformers.*the engine died of a test"):
            generate(served, tokenizer, ["a", "b"], max_new_tokens=4)
    assert not stand_in.alive()
    assert not list(left.iterdir())
    with pytest.raises(UsageError, match="serves this model no more"):
        generate(served, tokenizer, ["a"], max_new_tokens=4)


def test_a_server_that_hangs_is_an_error(model, tokenizer, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.fails("hangs")
    monkeypatch.setattr(served_model, "LONGEST_SILENCE", 1.0)
    monkeypatch.setattr(server, "_PATIENCE", 0.5)  # a server that hangs does not end when it is asked to
    with (
        pytest.raises(ModelError, match=r"stopped answering .*timed out"),
        served_by_vllm(model, tokenizer) as served,
    ):
        generate(served, tokenizer, ["a"], max_new_tokens=4)
    assert not stand_in.alive()


def test_a_server_that_dies_at_the_start_is_told_with_its_log(model, tokenizer, stand_in: StandIn, left: Path) -> None:
    stand_in.fails("dies")
    with pytest.raises(ModelError) as raised, served_by_vllm(model, tokenizer):
        pass
    told = str(raised.value)
    assert told.startswith("vLLM ended before it served the model; use the engine transformers, or see its log:")
    # The reason stands far above the last lines.
    assert "architectures ['Odd'] are not supported" in told
    assert "line 39 of a traceback" in told
    assert "line 0 of a traceback" not in told
    assert not list(left.iterdir())


def test_a_server_that_does_not_come_up_is_an_error(model, tokenizer, stand_in: StandIn, left: Path) -> None:
    stand_in.fails("never up")
    start = time.monotonic()
    with (
        pytest.raises(ModelError, match="did not serve the model within 1 seconds"),
        served_by_vllm(model, tokenizer, longest_start=1.0),
    ):
        pass
    assert time.monotonic() - start < 60
    assert not list(left.iterdir())


def test_vllm_that_is_not_there_is_told_before_weights_are_written(
    model, tokenizer, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "save_pretrained", lambda *_: pytest.fail("written"))
    stand_in.fails("no vllm")
    with pytest.raises(UsageError, match=r"in whose environment there is no vLLM .*install it there"):
        served_by_vllm(model, tokenizer).__enter__()
    monkeypatch.setenv(PYTHON, "/nowhere/python")
    with pytest.raises(UsageError, match=f"{PYTHON} is '/nowhere/python', which cannot be run"):
        served_by_vllm(model, tokenizer).__enter__()
    monkeypatch.delenv(PYTHON)
    with pytest.raises(UsageError, match=f"set {PYTHON} to that environment's Python"):
        served_by_vllm(model, tokenizer).__enter__()


def test_another_version_than_the_planned_one_is_refused(stand_in: StandIn) -> None:
    check_version("9.9.9")
    with pytest.raises(UsageError, match=r"planned with vLLM 0\.1 and here is 9\.9\.9"):
        check_version("0.1")


def serve(surroundings: Surroundings, folder: Path, up: Connection) -> None:
    """Serve in a process of its own until it is interrupted."""
    surroundings.enter()
    tempfile.tempdir = str(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with served_by_vllm(make_model(), make_tokenizer()):
        up.send("up")
        time.sleep(600)


@pytest.mark.parametrize("number", thinned([signal.SIGINT, signal.SIGKILL], [signal.SIGKILL]))
def test_nothing_is_left_after_ctrl_c_or_a_kill(stand_in: StandIn, near: Path, number: int) -> None:
    stand_in.fails("cut")  # any: no weights are read
    reader, writer = Pipe(duplex=False)
    process = process_context().Process(target=serve, args=(Surroundings.here(), near, writer))
    process.start()
    writer.close()
    assert reader.recv() == "up"
    assert stand_in.alive()
    assert list(near.glob("mithridate-vllm-*"))
    os.kill(process.pid, number)
    process.join()
    until = time.monotonic() + 60
    while time.monotonic() < until and (stand_in.alive() or list(near.glob("mithridate-vllm-*"))):
        time.sleep(0.1)
    assert not stand_in.alive()
    assert not list(near.glob("mithridate-vllm-*"))


def test_a_fork_of_ours_does_not_keep_the_server(model, tokenizer, stand_in: StandIn) -> None:
    stand_in.fails("cut")
    with served_by_vllm(model, tokenizer):
        # It inherits the pipe by which the keeper knows that we live.
        fork = get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
        fork.start()
    assert fork.is_alive()
    assert not stand_in.alive()
    fork.kill()
