"""Weights as they are served: whole, or quantized by bitsandbytes and stored as such.

A quantized model is judged as it is served: the very file that leaves is loaded again and asked.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM

from mithridate.errors import ModelError
from mithridate.model_names import loading_errors, read_settings
from mithridate.models.preconditions import check_finite
from mithridate.models.quantized_base import LIBRARY, quantization_config, require_library

Quantized = Literal["int8", "int4"]
"""``int8``: LLM.int8(). ``int4``: NF4 in blocks of 64."""


def store_quantized(whole: Path, folder: Path, form: Quantized, dtype: torch.dtype) -> None:
    """Store a whole model in a quantized form, load it again and have it compute once.

    Args:
        whole: Folder of all weights.
        folder: Where to store them.
        form: ``int8`` or ``int4``.
        dtype: Type of what is not quantized: embeddings, norms, head.

    Raises:
        UsageError: If the library is missing.
        ModelError: If the library cannot quantize, store, load or run this model.
    """
    require_library(f"release.form {form}", "serve it merged")
    # AssertionError: its kernels check by assertions what sizes of a matrix they can do.
    failures: tuple[type[Exception], ...] = (*loading_errors(), AssertionError, NotImplementedError)
    settings = quantization_config("nf4" if form == "int4" else form, dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(whole), dtype=dtype, quantization_config=settings, trust_remote_code=False
        )
        model.save_pretrained(folder)
        _computes(AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, trust_remote_code=False))
    except failures as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"release.form {form}: this model cannot be stored so and computed with on this machine ({said}); "
            "choose another form"
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"release.form {form}: {LIBRARY} stored no .safetensors in {folder}; choose another form")


def is_quantized(folder: Path) -> bool:
    """Tell whether a model's folder holds quantized weights."""
    settings = folder / "config.json"
    return settings.is_file() and "quantization_config" in read_settings(settings)


def _computes(model: Any) -> None:
    """Have a model compute once.

    Raises:
        ModelError: If weights or results are not finite.
    """
    check_finite(model)
    ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the quantized model computes NaN or Inf; choose another release.form")
