"""Signals made ready: the provider's rows read, and a fingerprint that thresholds are tied to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from mithridate.data.token_checks import control_tokens
from mithridate.errors import GateError
from mithridate.files import source_hash
from mithridate.gates.base_signal import GateSignal, RowScorer, RowSignal
from mithridate.gates.model_reader import ModelReader
from mithridate.gates.provider import GateProvider
from mithridate.gates.reference import Reference
from mithridate.models.tokenization import tokenizer_hash

_SAMPLED = 64
"""Numbers of each weight, at most, that stand for it; training moves some of them."""


class GateState:
    """What a gate computes once for all uploads.

    Args:
        provider: What the provider handed over.
        signals: The signals.

    Attributes:
        scorers: What scores rows, by signal.
        reader: What reads rows with the model; None where no signal needs it.
        control_tokens: Pattern of the tokenizer's control tokens; None where there is no tokenizer.
        fingerprint: Of signals, the code that scores, model, tokenizer, guard and the provider's rows.

    Raises:
        GateError: If a signal lacks what it needs.
    """

    def __init__(self, provider: GateProvider, signals: Sequence[GateSignal]) -> None:
        provider.require(signals)
        reference = Reference(provider)
        self._model = provider.model if any("model" in signal.needs for signal in signals) else None
        self.scorers: dict[str, RowScorer] = {
            signal.name: signal.prepare(reference) for signal in signals if isinstance(signal, RowSignal)
        }
        self.reader: ModelReader | None = reference.reader if self._model is not None else None
        self.control_tokens = control_tokens(provider.tokenizer) if provider.tokenizer is not None else None
        self._weights = _weights_hash(self._model)
        self.fingerprint = _fingerprint(reference, signals, self._weights)

    def check_model(self) -> None:
        """Make sure that the model is still the one that the signals were made ready with.

        Raises:
            GateError: If its weights have changed, as by training it in place.
        """
        if _weights_hash(self._model) != self._weights:
            raise GateError(
                "the gate's model has changed since the gate was made, so its thresholds mean nothing; "
                "give the gate a model of its own, and calibrate a new gate for a new model"
            )


def _fingerprint(reference: Reference, signals: Sequence[GateSignal], weights: str) -> str:
    provider = reference.provider
    streams = {
        stream: _digest(json.dumps([row.prompt, row.completion]) for row in getattr(reference, stream))
        for stream in ("harmful", "ordinary")
        if any(stream in signal.needs for signal in signals)
    }
    told = {
        "signals": {signal.name: signal.model_dump(mode="json") for signal in signals},
        "streams": streams,
        "refusals": list(provider.refusals),
        "max_length": provider.max_length,
        "paired": provider.paired,
        "judge": provider.judge.name if provider.judge is not None else None,
        "judge_files": dict(provider.judge_files or {}),
        "weights": weights,
        "tokenizer": None if provider.tokenizer is None else tokenizer_hash(provider.tokenizer),
        "code": _code_hash(),
    }
    return _digest([json.dumps(told, sort_keys=True)])


@cache
def _code_hash() -> str:
    """Return a hash of the code that makes scores of rows; a threshold means nothing to another formula."""
    package = Path(__file__).parent.parent
    folders = ("data", "evaluation", "gates", "models")
    return source_hash((path for folder in folders for path in sorted((package / folder).rglob("*.py"))), package)


def _weights_hash(model: nn.Module | None) -> str:
    if model is None:
        return ""
    named = chain(model.named_parameters(), model.named_buffers())
    return _digest(f"{name} {tuple(tensor.shape)} {_sample(tensor)}" for name, tensor in named)


def _sample(tensor: Tensor) -> list[float]:
    flat = tensor.detach().reshape(-1)
    # Rounded up, so that the numbers are taken from all of it.
    step = max(1, -(-flat.numel() // _SAMPLED))
    found: list[float] = flat[::step][:_SAMPLED].to("cpu", torch.float64).tolist()
    return found


def _digest(texts: Iterator[str] | Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
