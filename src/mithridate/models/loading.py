"""Models of a run: a base, and where there is one an adapter on top of it."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from mithridate.data import ensure_chat_template
from mithridate.data.chat_template import Door
from mithridate.errors import ModelError
from mithridate.model_names import adapter_base, loading_errors, path_of, read_settings
from mithridate.model_names import locate as locate
from mithridate.models.positions import most_positions
from mithridate.models.preconditions import check_finite
from mithridate.models.quantized_base import (
    BITS,
    Quantization,
    prevent_repacking,
    quantization_config,
    quantized_layers,
)


class Where(NamedTuple):
    """Where a stage's model lies.

    Attributes:
        base: Folder or hub id of all weights.
        adapter: Folder of the adapter; None where there is none.
        served: Folder of the tokenizer the finished model is served with; None for that of the base.
        quantize: How the base's linear layers are held; its files are in whole weights.
    """

    base: str
    adapter: str | None
    served: str | None = None
    quantize: Quantization = "none"


def where_named(name: str, *, tokenizer: bool = False) -> Where:
    """Return where a model lies; an adapter's folder names its own base.

    Args:
        name: Folder or hub id.
        tokenizer: Whether the model's folder must hold a tokenizer.

    Raises:
        ModelError: If there is no such model, or the adapter does not say what its base is.
    """
    folder = path_of(name)
    base = adapter_base(folder)
    if base is None:
        return Where(locate(name, tokenizer=tokenizer), None)
    return Where(base, str(folder), quantize=_trained_on(folder))


def _trained_on(folder: Path) -> Quantization:
    """Return how the base was held under an adapter while it was trained, by the manifest beside it."""
    path = folder / "manifest.json"
    said: Any = read_settings(path).get("quantize", "none") if path.is_file() else "none"
    if said not in BITS:
        raise ModelError(f"{path}: quantize is {said!r}, which this version does not know; use the one that wrote it")
    known: Quantization = said
    return known


def device() -> str:
    """Where models run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load(where: Where, precision: str, trainable: bool = False) -> Any:
    """Load weights and adapter.

    Args:
        where: Where they lie, and how the base is held.
        precision: Type of the weights; ``auto`` is that of their files, also of the adapter's.
        trainable: Whether the adapter is to be trained.

    Raises:
        ModelError: If they cannot be loaded, lack weights, hold NaN, or are quantized already.
        UsageError: If bitsandbytes, which quantizes, is not installed.
    """
    base = locate(where.base)
    kind = precision if precision == "auto" else getattr(torch, precision)
    settings: dict[str, Any] = {"dtype": kind, "output_loading_info": True}
    if where.quantize != "none":
        _require_whole(base, where.quantize)
        computed: torch.dtype = stored_dtype(base) if precision == "auto" else getattr(torch, precision)
        settings["quantization_config"] = quantization_config(where.quantize, computed)
    model, info = _from_pretrained(AutoModelForCausalLM, base, **settings)
    if missing := sorted(info["missing_keys"]):  # transformers would go on with random weights
        raise ModelError(f"'{where.base}' is not a complete causal language model: its checkpoint lacks {missing[0]}")
    if where.adapter is not None:
        try:
            widen = precision != "auto" or not _is_half(where.adapter)
            model = PeftModel.from_pretrained(
                model, where.adapter, is_trainable=trainable, autocast_adapter_dtype=widen
            )
        except loading_errors() as error:
            raise ModelError(f"the adapter {where.adapter} cannot be loaded: {_short(error)}") from error
    check_finite(model)
    prevent_repacking(model)
    # Quantized weights are where they are computed with, and cannot be moved.
    return model if getattr(model, "is_quantized", False) else model.to(device())


def load_whole(adapted: PeftModel, where: Where, precision: str) -> Any:
    """Load whole weights under an adapter that was trained on the same base quantized.

    Args:
        adapted: The model with the adapter.
        where: Where its base lies.
        precision: Type of the weights.
    """
    with tempfile.TemporaryDirectory(prefix="adapter-") as folder:
        adapted.save_pretrained(folder)
        return load(Where(where.base, folder), precision)


def _require_whole(base: str, quantize: Quantization) -> None:
    """Refuse a base whose files hold quantized weights: transformers would leave them so and say little."""
    if getattr(_from_pretrained(AutoConfig, base), "quantization_config", None) is not None:
        raise ModelError(f"the weights of '{base}' are quantized already; set quantize {quantize} to none")


def _is_half(adapter: str) -> bool:
    """Return whether an adapter's weights are of half precision, in which PEFT would not keep them by itself."""
    path = Path(adapter) / "adapter_model.safetensors"
    if not path.is_file():
        return False
    return _stored_kinds(path) <= {"BF16", "F16"}


_FLOATING = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Types by their names in safetensors files."""


def _stored_kinds(path: Path) -> set[str]:
    """Return the types of a file's tensors, by their names in it; no tensor is read."""
    with safe_open(path, framework="pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  # not a mapping


def load_tokenizer(base: str, template: str | None, door: Door = "recipe") -> PreTrainedTokenizerBase:
    """Load a tokenizer that can lay out conversations and pad.

    Args:
        base: Folder or hub id.
        template: Chat template, as for `ensure_chat_template`.
        door: Where the user names the template, for messages.

    Raises:
        ModelError: If it cannot be loaded or has no chat template.
    """
    tokenizer = load_plain_tokenizer(base)
    ensure_chat_template(tokenizer, template, door)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_plain_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer as it is.

    Raises:
        ModelError: If it cannot be loaded.
    """
    tokenizer: PreTrainedTokenizerBase = _from_pretrained(AutoTokenizer, base)
    return tokenizer


def load_served(where: Where, template: str | None) -> PreTrainedTokenizerBase:
    """Load the tokenizer that a finished model is served with.

    Raises:
        ModelError: If it cannot be loaded or has no chat template.
    """
    return load_tokenizer(where.base, template) if where.served is None else load_tokenizer(where.served, None)


def _from_pretrained(kind: Any, name: str, **kwargs: Any) -> Any:
    try:
        return kind.from_pretrained(name, trust_remote_code=False, **kwargs)
    except loading_errors() as error:
        raise ModelError(
            f"'{name}' cannot be loaded as a causal language model with tokenizer: {_short(error)}; "
            "give a folder in Hugging Face format or a hub id"
        ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def positions_of(name: str) -> float:
    """Return how many tokens a model was made for; infinitely many where its settings name no limit.

    Args:
        name: Folder or hub id.

    Raises:
        ModelError: If its settings cannot be loaded.
    """
    return most_positions(_from_pretrained(AutoConfig, name))


def stored_dtype(name: str) -> torch.dtype:
    """Return the type in which a model's weights are stored; float32 where its files do not say.

    Args:
        name: Folder or hub id.

    Raises:
        ModelError: If its settings cannot be loaded.
    """
    named: torch.dtype | None = _from_pretrained(AutoConfig, name).dtype
    if named is not None:
        return named
    for path in sorted(Path(name).expanduser().glob("*.safetensors")):
        floating = [_FLOATING[kind] for kind in _stored_kinds(path) if kind in _FLOATING]
        if len(floating) == 1:
            return floating[0]
    return torch.float32


def save_merged(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Save all weights as safetensors, the adapter merged in.

    Args:
        model: The model, with or without an adapter.
        tokenizer: Its tokenizer.
        folder: Where to save them.
        dtype: Type of the saved weights; that of the model by default. Merging comes first, so that the adapter is not
            rounded before it is added.

    Raises:
        ModelError: If the base is quantized, or merging gives NaN.
    """
    if quantized_layers(model):
        # PEFT would round W + ΔW to the base's few levels, and most of ΔW with it.
        raise ModelError("the base is quantized, and no adapter can be merged into it; load the model in whole weights")
    if isinstance(model, PeftModel):
        try:
            model = model.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise ModelError(f"the adapter cannot be merged: {_short(error)}") from error
    if dtype is not None:
        model = model.to(dtype)
    check_finite(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
