"""Packages whose names are loaded on first use."""

import ast
from importlib import import_module
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["mithridate.data", "mithridate.attacks"])
def test_every_name_is_loaded_told_to_type_checkers_and_listed(name):
    package = import_module(name)
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    told = {
        alias.asname or alias.name
        for block in tree.body if isinstance(block, ast.If)
        for node in block.body if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }  # fmt: skip
    assert set(package.__all__) == set(package._HOMES) == told
    assert all(getattr(package, one) is not None for one in package.__all__)


def test_a_name_that_is_none_is_an_error_as_of_any_module():
    load = import_module("mithridate.data").__getattr__
    with pytest.raises(AttributeError, match=r"module 'mithridate\.data' has no attribute 'nonsense'"):
        load("nonsense")
