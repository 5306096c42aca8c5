"""Models named on the command line: a full model, or a LoRA adapter on its base."""

import json
from pathlib import Path
from typing import Any

from mithridate.errors import ModelError
from mithridate.pipeline.models import Where, load, load_tokenizer, locate


def where_named(name: str) -> Where:
    """A folder with an adapter names its base itself.

    Raises:
        ModelError: If the adapter does not say what its base is.
    """
    config = Path(name) / "adapter_config.json"
    if not config.is_file():
        return Where(locate(name), None)
    base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{config} names no base model; set base_model_name_or_path in it")
    return Where(locate(base), name)


def open_model(name: str, template: str | None) -> tuple[Any, Any]:
    """Model and tokenizer."""
    where = where_named(name)
    return load(where, "float32"), load_tokenizer(where.base, template)
