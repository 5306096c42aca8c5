"""What the files of a folder register, read from their text without running them.

A defense's or attack's file imports torch, which takes seconds; a list of them need not. The registration in each file
stays the only place where it is declared: its arguments are literals, or names that the file gives to literals.
"""

import ast
import pkgutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Registration(NamedTuple):
    """One decorated class.

    Attributes:
        name: First argument of the decorator.
        class_name: The class.
        file: Name of its file, without ending.
        summary: First line of the class's docstring.
        arguments: Those of the decorator's keyword arguments that were asked for.
    """

    name: str
    class_name: str
    file: str
    summary: str
    arguments: dict[str, Any]


def registrations(folder: Path, decorator: str, arguments: Collection[str]) -> list[Registration]:
    """Return the classes of a folder's files that a decorator registers, in the order of files and classes.

    Args:
        folder: Folder of the files.
        decorator: Name of the decorator.
        arguments: Its keyword arguments to read; the others need be no literals.
    """
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    return [found for name in names for found in _in_file(folder / f"{name}.py", decorator, arguments)]


def _in_file(path: Path, decorator: str, arguments: Collection[str]) -> Iterator[Registration]:
    # A folder within the folder holds no registrations.
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if f"@{decorator}(" not in text:
        return
    tree = ast.parse(text, path)
    constants = dict(_constants(tree))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator:
                    yield _registration(node, call, constants, path.stem, arguments)


def _constants(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """Names that a module gives to texts and numbers, such as the paper of a file's two defenses."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value.value


def _registration(
    node: ast.ClassDef, call: ast.Call, constants: dict[str, Any], file: str, wanted: Collection[str]
) -> Registration:
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg in wanted}
    return Registration(
        name=_literal(call.args[0], constants),
        class_name=node.name,
        file=file,
        summary=(ast.get_docstring(node) or "").splitlines()[0],
        arguments={name: _literal(value, constants) for name, value in given.items() if name is not None},
    )


def _literal(node: ast.expr, constants: dict[str, Any]) -> Any:
    return constants[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)
