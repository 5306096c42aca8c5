"""Has vLLM serve a copy of a model."""

import copy
import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import distributed
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mithridate.errors import UsageError
from mithridate.evaluation.vllm.environment import vllm_version
from mithridate.evaluation.vllm.served_model import ModelOnVllm
from mithridate.evaluation.vllm.server import LONGEST_START, vllm_server
from mithridate.models.loading import save_merged

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@contextmanager
def served_by_vllm(
    model: PreTrainedModel | Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    *,
    longest_start: float = LONGEST_START,
) -> Iterator[ModelOnVllm]:
    """Have vLLM answer for a model inside the block; give what it yields to `generate` or `harmful_score` as the model.

    vLLM gets a copy of the weights as they are now, an adapter merged in, on disk; a later change does not reach it.
    vLLM stands in an environment of its own, whose Python the environment variable `MITHRIDATE_VLLM` names. Server and
    copy are gone after the block, also after an error, Ctrl-C or a kill.

    Args:
        model: Causal language model, plain or PEFT; or a function that makes one that is not kept, so that vLLM has
            its memory.
        tokenizer: Its tokenizer.
        longest_start: Seconds until vLLM must answer.

    Raises:
        UsageError: If vLLM is not there, or several processes would each start one.
        ModelError: If the weights cannot be written whole, hold NaN or Inf, or vLLM cannot serve them.
    """
    if distributed.is_initialized() and distributed.get_world_size() > 1:
        raise UsageError("vLLM batches all prompts by itself: start it in one process, without a launcher")
    vllm_version()  # before weights are written, which takes minutes
    with tempfile.TemporaryDirectory(prefix="mithridate-vllm-") as folder:
        weights = Path(folder) / "weights"
        written = _written(model, tokenizer, weights)
        _give_memory_back()
        with vllm_server(Path(folder), weights, written.dtype, longest_start) as server:
            yield ModelOnVllm(written.config, written.generation_config, server)


class _Written(NamedTuple):
    """What is known of a model whose weights are on disk."""

    config: Any
    generation_config: Any
    dtype: str


def _written(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> _Written:
    held = model if isinstance(model, PeftModel | PreTrainedModel) else model()
    if isinstance(held, PeftModel) and not isinstance(held.base_model, BaseTuner):
        raise UsageError(f"vLLM serves whole weights, which an adapter of {held.active_peft_config.peft_type} has not")
    dtype = _DTYPES.get(held.dtype)
    if dtype is None:
        raise UsageError(f"vLLM serves float32, bfloat16 and float16, not {held.dtype}; load the model in one of them")
    if held is model and isinstance(held, PeftModel):
        held = _copied(held)
    save_merged(held, tokenizer, folder)
    return _Written(held.config, held.generation_config, dtype)


def _copied(model: PeftModel) -> Any:
    """Return a copy to merge, since the caller's model must stay as it is; without the adapter where it is off."""
    copied = copy.deepcopy(model)
    off = [layer.disable_adapters for layer in copied.modules() if isinstance(layer, BaseTunerLayer)]
    return copied.unload() if all(off) else copied


def _give_memory_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
