"""What a stage leaves in its folder, and how the next one finds the model in it."""

from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mithridate.models.loading import Where, save_merged

MODEL, ADAPTER, TOKENIZER = "model", "adapter", "tokenizer"
"""Folders: all weights, or an adapter alone; a tokenizer where serving differs from training."""
DISPLACEMENT = "displacement.safetensors"
ROW_WEIGHTS = "row_weights.jsonl"


def save_model(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path, merge: bool
) -> None:
    """Save an adapter alone, unless it has to be merged."""
    if isinstance(model, PeftModel) and not merge:
        model.save_pretrained(folder / ADAPTER)
    else:
        save_merged(model, tokenizer, folder / MODEL)


def where_is(model: str, folders: Sequence[Path]) -> Where:
    """Return where the model is that the last of the stages left behind.

    Args:
        model: The recipe's model.
        folders: Folders of the stages, in their order.
    """
    where = Where(model, None)
    for folder in folders:
        if (folder / MODEL).is_dir():
            where = Where(str(folder / MODEL), None, where.served)
        elif (folder / ADAPTER).is_dir():
            where = Where(where.base, str(folder / ADAPTER), where.served)
        if (folder / TOKENIZER).is_dir():
            where = where._replace(served=str(folder / TOKENIZER))
    return where
