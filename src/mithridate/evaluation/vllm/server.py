"""Starts vLLM's server on a folder of weights, and ends it."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import httpx
import torch

from mithridate.errors import ModelError
from mithridate.evaluation.vllm.environment import own_environment, vllm_python

NAME = "model"
"""What the server calls the model."""
LONGEST_START = 1800.0
"""Seconds until a server must answer; reading large weights and compiling take minutes."""
LOG_LINES = 20
"""Last lines of the server's log that an error shows."""
_FAULT, _NO_FAULT = re.compile(r"\w(Error|Exception): "), re.compile(r"\b(INFO|WARNING)\b")
_PATIENCE = 5.0
_KEEPER = Path(__file__).with_name("keeper.py")


class Server(NamedTuple):
    """A server under way.

    Attributes:
        socket: Where it listens.
        process: Its keeper.
        log: What it has written.
    """

    socket: Path
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]

    def client(self, seconds: float) -> httpx.Client:
        """Return a client of the server.

        Args:
            seconds: The longest that the server may be silent.
        """
        # A socket in a private folder and not a port, which anyone on the machine could connect to; nothing is
        # encrypted on it, so no certificates need be loaded.
        transport = httpx.HTTPTransport(uds=str(self.socket), verify=False)
        return httpx.Client(transport=transport, base_url="http://vllm", timeout=seconds)

    def fault(self, what: str) -> ModelError:
        """Return an error with the first error and the end of the server's log."""
        handle = self.log.fileno()
        # The server writes on at the handle's place, which a plain read would move.
        text = os.pread(handle, os.fstat(handle).st_size, 0).decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        # vLLM says first what is wrong, and then how each of its processes ended because of it.
        first = [line for line in lines[:-LOG_LINES] if _FAULT.search(line) and not _NO_FAULT.search(line)][:3]
        shown = "\n  ".join([*first, *lines[-LOG_LINES:]])
        return ModelError(f"vLLM {what}; use the engine transformers, or see its log:\n  {shown}")


@contextmanager
def vllm_server(folder: Path, weights: Path, dtype: str, longest_start: float = LONGEST_START) -> Iterator[Server]:
    """Serve weights by vLLM inside the block.

    Args:
        folder: Private folder for its socket; removed when the server ends.
        weights: Folder of the model.
        dtype: Type of the weights.
        longest_start: Seconds until the server must answer.

    Raises:
        UsageError: If it is not said where vLLM is.
        ModelError: If the server ends, or does not answer in time.
    """
    socket, keeper = folder / "socket", [sys.executable, "-I", str(_KEEPER), str(folder), str(_PATIENCE)]
    command = _command(socket, weights, dtype)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*keeper, *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # Ctrl-C reaches every process of the terminal; the keeper ends the server
        )
        try:
            server = Server(socket, process, log)
            _wait_for(server, longest_start)
            yield server
        finally:
            # Closing standard input is not enough: a forked process of ours may hold it open too.
            process.terminate()
            process.communicate()


def _command(socket: Path, weights: Path, dtype: str) -> list[str]:
    # Not the program `vllm`: that of the build for CPUs looks for a package of another name and ends.
    return [
        *(vllm_python(), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(weights), "--served-model-name", NAME, "--uds", str(socket)),
        *("--dtype", dtype, "--load-format", "safetensors", "--skip-tokenizer-init", "--seed", "0"),
        # Not the model's own sampling settings, nor more room than there is memory for.
        *("--generation-config", "vllm", "--max-model-len", "auto", "--disable-uvicorn-access-log"),
        # On CPUs compiling takes minutes and needs a compiler.
        *(() if torch.cuda.is_available() else ("--enforce-eager",)),
    ]


def _environment() -> dict[str, str]:
    """Return the server's environment variables: nothing is sent out, and on CPUs not nearly all memory is taken."""
    fixed = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    return {"VLLM_CPU_KVCACHE_SPACE": "4"} | own_environment() | fixed


def _wait_for(server: Server, longest: float) -> None:
    until = time.monotonic() + longest
    with server.client(5.0) as client:
        while not _answers(client):
            if server.process.poll() is not None:
                raise server.fault("ended before it served the model")
            if time.monotonic() > until:
                raise server.fault(f"did not serve the model within {longest:g} seconds")
            time.sleep(0.1)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == httpx.codes.OK
    except httpx.TransportError:  # it does not listen yet
        return False
