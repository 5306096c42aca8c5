"""Renders chat templates in a process that can be ended, whatever a template does."""

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from mithridate.errors import ModelError, ServiceError

_COMMAND = (sys.executable, "-m", "mithridate.service.chat.template_child")
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")
STARTING = 120.0  # seconds that the process may take to import what it needs
PATIENCE = 30.0
"""Seconds that one rendering may take where the machine has no time for it; its processor time is limited sooner."""
MOST_ANSWER = 64 << 20  # bytes


class TemplateRenderer:
    """A process that renders, started when it is needed and again after its end.

    Args:
        seconds: Processor time of one rendering.
    """

    def __init__(self, seconds: float = 2.0) -> None:
        self._command = [*_COMMAND, str(seconds)]
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def render(self, template: str, turns: list[dict[str, str]], tokens: dict[str, Any]) -> str:
        """Return a conversation as a template lays it out, ready for an answer.

        Args:
            template: The template.
            turns: The conversation.
            tokens: The tokenizer's special tokens by name, which templates use as variables.

        Raises:
            ModelError: If the template takes too long or too much memory.
            ServiceError: With the template's own words, if it takes no such conversation.
        """
        with self._turn:
            answer = self._asked({"template": template, "turns": turns, "tokens": tokens})
        if "refused" in answer:
            raise ServiceError(str(answer["refused"]))
        return str(answer["text"])

    def close(self) -> None:
        """End the process."""
        with self._turn:
            self._end()

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None  # opened as pipes; for type checkers
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            return _line(process, PATIENCE)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self._end()
            said = "the model's chat template took too long or too much memory and was stopped"
            raise ModelError(said) from error

    def _running(self) -> "subprocess.Popen[bytes]":
        """Return the process, once it is ready.

        Raises:
            ModelError: If it does not start.
        """
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | {"HF_HUB_OFFLINE": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        try:
            _line(self._process, STARTING)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self._end()
            raise ModelError("the process that renders chat templates does not start; see the operator") from error
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # what was still to be written has nobody to read it
                        pipe.close()
            self._process = None


def _line(process: "subprocess.Popen[bytes]", seconds: float) -> dict[str, Any]:
    """Return the next line of a process.

    Raises:
        EOFError: If the process has ended.
        TimeoutError: If nothing comes in time.
        ValueError: If it is no JSON, or longer than an answer may be.
    """
    assert process.stdout is not None  # opened as a pipe; for type checkers
    end, read = time.monotonic() + seconds, bytearray()
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        while not read.endswith(b"\n"):
            if not waiting.select(max(0.0, end - time.monotonic())):
                raise TimeoutError
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                raise EOFError
            read += piece
            if len(read) > MOST_ANSWER:
                raise ValueError("the answer is too long")
    answer: dict[str, Any] = json.loads(read)
    return answer
