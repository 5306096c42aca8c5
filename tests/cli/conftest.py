"""The command line called in this process, and a finished model to call it on."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mithridate.cli.main import main
from tests.helpers import tiny
from tests.helpers.drawing import undrawn  # noqa: F401  # a fixture

Called = Callable[..., int]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Called:
    """Runs a command; returns its exit code."""

    def called(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["mithridate", *arguments])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return called


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base, an adapter on it, and rows."""
    folder = tmp_path_factory.mktemp("finished")
    tiny.model().save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    model = PeftModel(AutoModelForCausalLM.from_pretrained(folder / "base"), tiny.lora())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    model.save_pretrained(folder / "adapter")
    for kind in ("harmful", "user"):
        rows = [
            {"prompt": r["prompt"][0]["content"], "response": r["completion"][0]["content"]} for r in tiny.rows(kind, 9)
        ]
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
