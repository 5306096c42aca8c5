"""Chat completions, as clients ask for and see them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class _OfChat(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TextPart(_OfChat):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class ChatTurn(_OfChat):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """The message's text, its pieces joined by line breaks."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(_OfChat):
    """What a stream tells besides the answer."""

    include_usage: bool = False


class ChatRequest(_OfChat):
    """What a client asks a model. Without ``temperature`` answers are greedy, which is how the model was judged."""

    model: str = Field(max_length=255)
    messages: list[ChatTurn] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: float | None = Field(None, gt=0, le=1)
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = 1
    user: str | None = Field(None, max_length=512)
    metadata: dict[str, str] | None = None

    @field_validator("stop")
    @classmethod
    def _few(cls, value: str | list[str] | None) -> str | list[str] | None:
        found = [value] if isinstance(value, str) else value or []
        if len(found) > 4 or not all(found):
            raise ValueError("must be one to four texts, none of them empty")
        return value

    @model_validator(mode="after")
    def _asked(self) -> "ChatRequest":
        if self.messages[-1].role == "assistant":
            # An opening of the asker's own choice is a known way around a refusal.
            raise ValueError("messages must end with the user's turn")
        return self

    @property
    def stops(self) -> list[str]:
        """Texts at which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatUsage(BaseModel):
    """Tokens of a question and its answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def chat_completion(name: str, created: int, model: str, text: str, reason: str, usage: ChatUsage) -> dict[str, Any]:
    """Return a whole answer as the contract has it."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    return {
        "id": name,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": usage.model_dump(),
    }


def chat_chunk(
    name: str,
    created: int,
    model: str,
    delta: dict[str, str] | None,
    reason: str | None,
    usage: ChatUsage | None = None,
) -> dict[str, Any]:
    """Return a piece of an answer as the contract has it; without a delta it is the one with the usage."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
    return {
        "id": name,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [] if delta is None else [choice],
        "usage": None if usage is None else usage.model_dump(),
    }
