"""Answers of released models, token by token; a model is loaded only if its bytes are those that were judged."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.errors import CheckpointError, ModelError, ServiceError
from mithridate.models.positions import most_positions
from mithridate.provider.judged_files import compare_files
from mithridate.service.chat.template_rendering import TemplateRenderer
from mithridate.service.contract.api_refusal import ApiRefusal
from mithridate.service.contract.chat_objects import ChatRequest, ChatUsage

KEPT = 2
"""Models that are kept in memory."""
_WAITING = 4
"""Requests that wait for a place. Each holds a thread that other requests need, so that any further one is refused."""
_FINAL = {"x-should-retry": "false"}
_PATIENCE = 10  # seconds that such a request waits


class _Loaded(NamedTuple):
    model: Any
    tokenizer: Any


class Answering:
    """One answer, while it is generated.

    Attributes:
        reason: Why it ended: ``stop`` or ``length``.
        usage: Tokens so far.
    """

    def __init__(self, loaded: _Loaded, request: ChatRequest, ids: list[int], most: int) -> None:
        self._loaded, self._request, self._ids, self._most = loaded, request, ids, most
        self.reason = "stop"
        self.usage = ChatUsage(prompt_tokens=len(ids), completion_tokens=0, total_tokens=len(ids))

    def pieces(self) -> Iterator[str]:
        """Return the answer, piece by piece."""
        stops = self._request.stops
        held = max((len(stop) for stop in stops), default=1) - 1  # what may yet turn out to begin a stop
        told, whole = 0, ""
        for whole in self._texts():
            if found := [whole.find(stop) for stop in stops if stop in whole]:
                self.reason, whole = "stop", whole[: min(found)]
                break
            ready = len(whole) - held
            # Half a character of several bytes is decoded as a replacement, until its other half is there.
            if ready > told and not whole.endswith("\ufffd"):
                yield whole[told:ready]
                told = ready
        if len(whole) > told:
            yield whole[told:]

    def _texts(self) -> Iterator[str]:
        """Return the whole answer so far, after each token."""
        import torch

        model, tokenizer = self._loaded
        ends = _ends(model, tokenizer)
        given = torch.tensor([self._ids], device=model.device)
        past: Any = None
        made: list[int] = []
        generator = torch.Generator(device=model.device)
        generator.manual_seed(self._request.seed if self._request.seed is not None else 0)
        while len(made) < self._most:
            with torch.inference_mode():
                output = model(input_ids=given, past_key_values=past, use_cache=True)
            past = output.past_key_values
            token = _chosen(output.logits[0, -1].float(), self._request, generator)
            self._count(len(made) + 1)
            if token in ends:
                return
            made.append(token)
            yield tokenizer.decode(made, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            given = torch.tensor([[token]], device=model.device)
        self.reason = "length"

    def _count(self, made: int) -> None:
        self.usage = ChatUsage(prompt_tokens=len(self._ids), completion_tokens=made, total_tokens=len(self._ids) + made)


class ChatEngine:
    """Models in memory, and who may use them at the same time.

    Args:
        at_once: Answers that are generated at the same time.
        most_tokens: Most tokens of an answer.
    """

    def __init__(self, at_once: int, most_tokens: int) -> None:
        self._room = threading.BoundedSemaphore(at_once)
        self._waiting = threading.BoundedSemaphore(_WAITING)
        self._most = most_tokens
        self._models: OrderedDict[str, _Loaded] = OrderedDict()
        self._loading = threading.Lock()
        self._templates = TemplateRenderer()

    @contextmanager
    def answering(self, name: str, folder: Path, files: dict[str, str], request: ChatRequest) -> Iterator[Answering]:
        """Hold a place while an answer is generated.

        Args:
            name: The model's name.
            folder: Its folder.
            files: SHA-256 of each of its files, as they were judged.
            request: What is asked.

        Raises:
            ApiRefusal: If all places are taken, the question does not fit, or the model's bytes are not those judged.
        """
        if not self._place():
            said = "all places for answers are taken; ask again in a moment"
            raise ApiRefusal(429, said, code="busy", headers={"Retry-After": "5"})
        try:
            loaded = self._loaded(name, folder, files)
            ids = _encoded(loaded, self._templates, request)
            yield Answering(loaded, request, ids, self._room_for(loaded, ids, request))
        finally:
            self._room.release()

    def _place(self) -> bool:
        """Take a place for an answer, and return whether there was one."""
        if self._room.acquire(blocking=False):
            return True
        if not self._waiting.acquire(blocking=False):
            return False
        try:
            return self._room.acquire(timeout=_PATIENCE)
        finally:
            self._waiting.release()

    def forget(self, name: str) -> None:
        """Drop a model from memory."""
        with self._loading:
            self._models.pop(name, None)

    def close(self) -> None:
        """End what runs beside this process."""
        self._templates.close()

    def _room_for(self, loaded: _Loaded, ids: list[int], request: ChatRequest) -> int:
        asked = request.max_completion_tokens or request.max_tokens or self._most
        limit = most_positions(loaded.model.config)
        left = int(min(limit - len(ids), self._most))
        if left < 1:
            said = f"messages have {len(ids)} tokens and the model holds {limit}; shorten them"
            raise ApiRefusal(400, said, param="messages", code="context_length_exceeded")
        return min(asked, self._most, left)

    def _loaded(self, name: str, folder: Path, files: dict[str, str]) -> _Loaded:
        with self._loading:
            if name not in self._models:
                self._models[name] = _load(folder, files)
            self._models.move_to_end(name)
            while len(self._models) > KEPT:
                self._models.popitem(last=False)
            return self._models[name]


def _load(folder: Path, files: dict[str, str]) -> _Loaded:
    from mithridate.models.loading import Where, load, load_tokenizer

    try:
        compare_files(folder, files)
        loaded = _Loaded(load(Where(str(folder), None), "auto").eval(), load_tokenizer(str(folder), None))
        # Once more: what was read in between is then known to be the same bytes.
        compare_files(folder, files)
    except CheckpointError as error:
        said = "the model's files are not those that were judged; it is not served, ask the operator"
        raise ApiRefusal(409, said, param="model", code="model_integrity", headers=_FINAL) from error
    return loaded


def _encoded(loaded: _Loaded, templates: TemplateRenderer, request: ChatRequest) -> list[int]:
    from mithridate.data.token_checks import control_tokens

    control = control_tokens(loaded.tokenizer)
    turns = []
    for place, turn in enumerate(request.messages):
        # Such text would reach the model as the token that ends a turn or begins an answer.
        if control.search(turn.text):
            said = f"messages.{place} holds a control token of the model; remove it"
            raise ApiRefusal(400, said, param="messages", code="control_token")
        turns.append({"role": "system" if turn.role == "developer" else turn.role, "content": turn.text})
    tokenizer = loaded.tokenizer
    try:
        text = templates.render(tokenizer.get_chat_template(), turns, dict(tokenizer.special_tokens_map))
    except ServiceError as error:
        said = f"the model's template takes no such conversation: {error}"
        raise ApiRefusal(400, said, param="messages", code="invalid_conversation") from error
    except ModelError as error:
        said = f"{error}; ask the operator"
        raise ApiRefusal(409, said, param="model", code="template_stopped", headers=_FINAL) from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _ends(model: Any, tokenizer: Any) -> set[int]:
    own = getattr(model.generation_config, "eos_token_id", None)
    return {one for one in (*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id) if one is not None}


def _chosen(logits: Any, request: ChatRequest, generator: Any) -> int:
    """Return the next token: the likeliest, or one drawn by the temperature among the likeliest that make up top_p."""
    import torch

    if not request.temperature:
        return int(logits.argmax())
    shares, tokens = torch.softmax(logits / request.temperature, dim=-1).sort(descending=True)
    if request.top_p is not None:
        # The first is always kept.
        shares = shares.masked_fill(shares.cumsum(0) - shares >= request.top_p, 0)
    return int(tokens[torch.multinomial(shares, 1, generator=generator)])
