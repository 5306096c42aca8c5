"""What the defenses of this folder declare, read from their files without running them.

A defense's file imports torch, which takes seconds; a list of the defenses need not. The registration in each file
stays the only place where a defense is declared: its arguments are literals, and are read as such.
"""

import ast
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_STAGES = ("alignment", "finetuning", "posttuning")  # as in `STAGES`, whose module imports torch


class Listing(NamedTuple):
    """One registration, as `mithridate methods` shows it; `Info` says what the fields mean.

    Attributes:
        class_name: The defense's class.
        module: The module that holds it.
        summary: First line of the class's docstring.
    """

    name: str
    class_name: str
    module: str
    summary: str
    stages: tuple[str, ...]
    paper: str
    forward: int
    backward: int
    streams: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    extra: str = ""


@cache
def listed() -> dict[str, Listing]:
    """Return the defenses of this folder by name, sorted by stage and name; plug-ins are not among them."""
    folder = Path(__file__).parent
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    found = [listing for name in names for listing in _registrations(folder / f"{name}.py")]
    return {listing.name: listing for listing in sort_by_stage(found)}


def sort_by_stage(listings: list[Listing]) -> list[Listing]:
    """Return listings in the order of their first stage, and of their name within it."""
    return sorted(listings, key=lambda listing: (_STAGES.index(listing.stages[0]), listing.name))


def _registrations(path: Path) -> Iterator[Listing]:
    text = path.read_text(encoding="utf-8")
    if "@register(" not in text:
        return
    tree = ast.parse(text, path)
    constants = dict(_constants(tree))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "register":
                    yield _listing(node, call, constants, f"mithridate.defenses.{path.stem}")


def _constants(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """Names that a module gives to texts and numbers, such as the paper of a file's two defenses."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value.value


def _listing(node: ast.ClassDef, call: ast.Call, constants: dict[str, Any], module: str) -> Listing:
    given = {keyword.arg or "": keyword.value for keyword in call.keywords}
    values = {name: _literal(given[name], constants) for name in given if name in Listing._fields}
    stage = _literal(given["stage"], constants)
    return Listing(
        name=_literal(call.args[0], constants),
        class_name=node.name,
        module=module,
        summary=(ast.get_docstring(node) or "").splitlines()[0],
        stages=(stage,) if isinstance(stage, str) else stage,
        **values,
    )


def _literal(node: ast.expr, constants: dict[str, Any]) -> Any:
    return constants[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)
