"""An OpenAI-compatible chat endpoint, asked for one verdict per request and asked again if it returns none."""

import ipaddress
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx

from mithridate.certificates import certificates
from mithridate.errors import JudgeError, UsageError
from mithridate.evaluation.judges.judge import Verdict

_MAX_BYTES = 1 << 20  # of a reply; a verdict has a few hundred, and a reply without end must not fill the memory
# Retried like every 5xx: these pass with time; other 4xx, such as that of a wrong key, do not.
_RETRIED = (408, 409, 425, 429)
# Reserved for own networks (RFC 6761, 6762, 8375; .internal by ICANN), and .lan, which routers hand out.
_LOCAL_NAMES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")

Request = Mapping[str, Any]
"""Messages and settings of one chat completion, without the model's name."""


class BadReply(Exception):
    """A reply that holds no valid verdict; the endpoint is asked again."""


class Endpoint:
    """A chat model behind an address.

    Args:
        base_url: Address up to and including the version, such as `http://localhost:8000/v1`.
        model: Model name the endpoint knows.
        api_key_env: Environment variable that holds the key; None sends none.
        timeout: Seconds one request may take from connecting to the last byte.
        retries: Further tries after a failed one.
        backoff: Seconds before the first retry, doubled for each further one.
        workers: Requests under way at a time.

    Raises:
        UsageError: If an argument is out of range or the environment variable is not set.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None,
        timeout: float,
        retries: int,
        backoff: float,
        workers: int,
    ) -> None:
        if not re.match(r"https?://[^/\s]", base_url):
            raise UsageError(f"base_url must be an http:// or https:// address, not {base_url!r}")
        if timeout <= 0 or retries < 0 or backoff < 0 or workers < 1:
            raise UsageError("a judge's endpoint needs timeout > 0, retries >= 0, backoff >= 0 and workers >= 1")
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.model = model
        self.timeout, self.retries, self.backoff, self.workers = timeout, retries, backoff, workers
        self._headers = {"Authorization": f"Bearer {_key(api_key_env)}"} if api_key_env else {}

    def verdicts(self, name: str, requests: Sequence[Request], parse: Callable[[str], Verdict]) -> list[Verdict]:
        """Return a verdict per request, in order; the first failure cancels what has not started.

        Args:
            name: The judge's name, for messages.
            requests: One request per completion.
            parse: Reads a verdict from the reply's text, or raises `BadReply`.

        Raises:
            JudgeError: If a request got no valid verdict.
        """
        with (
            httpx.Client(headers=self._headers, timeout=self.timeout, verify=certificates()) as client,
            ThreadPoolExecutor(self.workers) as pool,
        ):
            return list(
                pool.map(lambda row: self._verdict(client, name, row, requests[row], parse), range(len(requests)))
            )

    def _verdict(
        self, client: httpx.Client, name: str, row: int, request: Request, parse: Callable[[str], Verdict]
    ) -> Verdict:
        fault = BadReply("no try was made")
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.backoff * 2 ** (attempt - 1))
            try:
                return parse(reply_text(self._ask(client, name, request)))
            except (BadReply, httpx.RequestError) as error:
                # Some of httpx's errors have no text.
                fault = BadReply(str(error) or type(error).__name__)
        raise JudgeError(
            f"{name} at {self.url} gave no valid verdict on answer {row} in {self.retries + 1} tries: {fault}"
        )

    def _ask(self, client: httpx.Client, name: str, request: Request) -> bytes:
        """Return the body of one successful reply."""
        # httpx's timeout is for a single read: a server that sends a byte now and then would never reach it.
        deadline = time.monotonic() + self.timeout
        body = bytearray()
        # Temperature 0, so that the same answer gets the same verdict again, as far as the server allows.
        with client.stream("POST", self.url, json={"model": self.model, "temperature": 0, **request}) as reply:
            if reply.status_code in _RETRIED or reply.status_code >= 500:
                raise BadReply(f"status {reply.status_code}")
            if reply.status_code != 200:
                raise JudgeError(
                    f"{name} at {self.url} answered with status {reply.status_code}: "
                    "check the address, the model's name and the key"
                )
            for chunk in reply.iter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise BadReply(f"a reply of more than {_MAX_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise BadReply(f"no complete reply within {self.timeout} seconds")
        return bytes(body)


def reply_text(body: bytes) -> str:
    """Return the message text of a complete chat completion.

    Raises:
        BadReply: If the body is not a chat completion with one finished text.
    """
    try:
        choice = json.loads(body)["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadReply("the reply is not a chat completion") from error
    # "length" means that the verdict was cut; some servers leave the reason out.
    if not isinstance(text, str) or finish not in ("stop", None):
        raise BadReply(f"the completion is not a finished text (finish_reason {finish!r})")
    return text


def is_local(base_url: str) -> bool:
    """Return whether an address is on this machine or in its own network, where a key is rarely needed.

    A name without a dot, such as `vllm` in a compose file, can only be one of the own network.
    """
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_NAMES)
    return address.is_loopback or address.is_private or address.is_link_local


def _key(variable: str) -> str:
    # A key read from a file ends in a line break, which no header may hold.
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(f"the environment variable {variable} is not set: put the judge's API key into it")
    return key
