"""Names what a stage leaves in its folder, and finds the model in it for the next one."""

from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mithridate.models.loading import Where, save_merged

MODEL, ADAPTER, TOKENIZER = "model", "adapter", "tokenizer"
"""Folders: all weights, or an adapter alone; a tokenizer if the model is served with another than it trained with."""
DISPLACEMENT = "displacement.safetensors"
ROW_WEIGHTS = "row_weights.jsonl"


def save_model(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path, merge: bool
) -> None:
    """Save all weights, or only the adapter if there is one and it need not be merged."""
    # An adapter takes megabytes where a 7B model takes 13 GB, and the store keeps every stage.
    if isinstance(model, PeftModel) and not merge:
        model.save_pretrained(folder / ADAPTER)
    else:
        save_merged(model, tokenizer, folder / MODEL)


def where_is(model: str, folders: Sequence[Path]) -> Where:
    """Return where the model lies that the last of the stages left.

    Args:
        model: The recipe's model.
        folders: Folders of the stages, in their order.
    """
    where = Where(model, None)
    for folder in folders:
        if (folder / MODEL).is_dir():
            # Whole weights contain whatever adapter came before; the tokenizer to serve with stays.
            where = Where(str(folder / MODEL), None, where.served)
        elif (folder / ADAPTER).is_dir():
            where = Where(where.base, str(folder / ADAPTER), where.served)
        if (folder / TOKENIZER).is_dir():
            where = where._replace(served=str(folder / TOKENIZER))
    return where
