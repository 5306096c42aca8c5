"""A model that vLLM answers for, asked over the protocol of OpenAI's completions with token ids in place of texts."""

from collections.abc import Sequence
from typing import Any, NoReturn

import httpx
from rich.console import Console
from rich.progress import Progress

from mithridate.errors import UsageError
from mithridate.evaluation.vllm.completion_stream import BadStream, Continuation, choices
from mithridate.evaluation.vllm.server import NAME, Server

LONGEST_SILENCE = 3600.0
"""Seconds that the server may be silent; it says something whenever an answer begins or ends."""
_WHOLE = 2**30


class NoWeights(UsageError, AttributeError):
    """Something was asked of a served model that only weights can give."""


class ModelOnVllm:
    """Stands for a model whose answers vLLM generates; it has settings and no weights.

    Args:
        config: The model's settings.
        generation_config: Its settings of generation, of which end tokens are read.
        server: The server that has the weights.
    """

    def __init__(self, config: Any, generation_config: Any, server: Server) -> None:
        self.config, self.generation_config, self._server = config, generation_config, server

    def __getattr__(self, name: str) -> NoReturn:
        raise NoWeights(
            f"a model that vLLM serves has no {name!r}, for it answers and does nothing else; give the model itself"
        )

    def continued(
        self, encoded: Sequence[Sequence[int]], ends: Sequence[int], max_new_tokens: int, progress: bool = False
    ) -> list[list[int]]:
        """Return the greedy continuation of every row of token ids; vLLM makes the batches.

        Args:
            encoded: Token ids of every prompt.
            ends: The ids that end a continuation, which then is its last one.
            max_new_tokens: Longest continuation.
            progress: Whether to show a progress bar on standard error.

        Raises:
            ModelError: If the server cannot answer, or its answers are not what was asked for.
            UsageError: If vLLM serves the model no more.
        """
        if self._server.log.closed:
            raise UsageError("vLLM serves this model no more: ask it inside the block that serves it")
        request = {
            "model": NAME,
            "prompt": [list(row) for row in encoded],
            "max_tokens": max_new_tokens,
            "temperature": 0,
            # The ends are ours: vLLM would add those of its own reading of the model's settings.
            "ignore_eos": True,
            "stop_token_ids": list(ends),
            "return_token_ids": True,
            # Scores alone show that logits were finite.
            "logprobs": 0,
            "return_tokens_as_token_ids": True,
            # A stream, so that silence tells of a server that hangs; and not one event for every token.
            "stream": True,
            "stream_interval": _WHOLE,
        }
        found = [Continuation(row) for row in encoded]
        try:
            self._ask(request, found, progress)
            return [one.whole(ends, max_new_tokens) for one in found]
        except BadStream as error:
            raise self._server.fault(str(error)) from error
        except httpx.HTTPError as error:
            # Some of httpx's errors have no text.
            raise self._server.fault(f"stopped answering ({str(error) or type(error).__name__})") from error

    def _ask(self, request: dict[str, Any], found: list[Continuation], progress: bool) -> None:
        with (
            self._server.client(LONGEST_SILENCE) as client,
            client.stream("POST", "/v1/completions", json=request) as reply,
            Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar,
        ):
            if reply.status_code != httpx.codes.OK:
                told = reply.read().decode(errors="replace")
                raise BadStream(f"refused the prompts with status {reply.status_code}: {told[:500]}")
            task = bar.add_task("generating", total=len(found))
            for part in choices(reply.iter_lines(), NAME):
                if not 0 <= part.index < len(found):
                    raise BadStream(f"answered a prompt {part.index} that was not asked")
                bar.advance(task, found[part.index].add(part))
