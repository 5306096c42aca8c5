"""Rows and models of the miniature."""

from typing import Any, NamedTuple

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM

import mithridate as mi


class World(NamedTuple):
    """What an attacker has."""

    benign: Dataset
    harmful: Dataset
    model: Any
    tokenizer: Any


@pytest.fixture(scope="session")
def world() -> World:
    """Rows of the miniature, and its small base model."""
    folder = mi.miniature.base(size="tiny")
    benign, harmful = mi.miniature.rows("task").select(range(200)), mi.miniature.rows("attack").select(range(100))
    return World(benign, harmful, AutoModelForCausalLM.from_pretrained(folder), mi.miniature.tokenizer())
