"""What the site has beside the pages under docs/: the API reference, and navigation over whole folders.

MkDocs calls the functions ``on_…`` (``hooks:`` in mkdocs.yml).
"""

import ast
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import mithridate as mi

ABOUT = {
    "training": "Training with a defense, and what a defense is made of",
    "defenses": "Defenses",
    "repair": "Repairs of finished models",
    "data": "Rows",
    "evaluation": "Scores and judges",
    "gates": "Gates",
    "modules": "Modules",
}
"""Titles of the reference's pages by the package in which their names live; another package is titled by its name."""

UNDOCUMENTED = "    options: {show_if_no_docstring: true}\n"
"""Constants need no docstring to be shown."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace ``folder/*`` in the navigation by the folder's pages."""
    if config.nav:
        methods = sorted(Path(config.docs_dir, "methods").glob("*.md"))
        folders: dict[str, list[Any]] = {
            # By their headings: MkDocs would make "Bds" and "Wise ft" of the files' names.
            "methods": [{_heading(path): f"methods/{path.name}"} for path in methods],
            "reference": [f"reference/{name}.md" for name in reference()],
        }
        config.nav = _expanded(config.nav, folders)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the API reference, so that it is never stale."""
    for name, text in reference().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Take out of ``python notest`` and its like what only the tests of the examples read."""
    return re.sub(r"^(```\w+) (?:notest|continuation|fixture:\S+)$", r"\1", markdown, flags=re.M)


def reference() -> dict[str, str]:
    """Return the pages of the API reference by name: every public name where it is defined, by package."""
    groups: dict[str, list[str]] = {}
    seen = set()
    for name in sorted(vars(mi).get("__all__", []) + dir(mi), key=str.lower):
        if name.startswith("_") or (isinstance(getattr(mi, name), ModuleType) and name not in mi.__all__):
            continue
        value = getattr(mi, name)
        path = home(name, value)
        if path not in seen:
            seen.add(path)
            package = "modules" if isinstance(value, ModuleType) else path.split(".")[1]
            groups.setdefault(package, []).append(f"::: {path}\n{'' if callable(value) else UNDOCUMENTED}")
    order = sorted(groups, key=lambda package: ([*ABOUT].index(package) if package in ABOUT else len(ABOUT), package))
    return {package: _page(package, groups[package]) for package in order}


def home(name: str, value: Any) -> str:
    """Return the dotted path under which a public object is defined.

    Raises:
        LookupError: If no module of the package defines it.
    """
    if isinstance(value, ModuleType):
        return value.__name__
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    for module in list(sys.modules.values()):
        holds = module.__name__.startswith("mithridate.") and vars(module).get(name) is value
        if holds and name in _assigned(module):
            return f"{module.__name__}.{name}"
    raise LookupError(f"mithridate.{name} is in no module of the package")


def _assigned(module: ModuleType) -> set[str]:
    """Return the names that a module assigns, other than those it imports."""
    statements = ast.parse(inspect.getsource(module)).body
    plain = [target for one in statements if isinstance(one, ast.Assign) for target in one.targets]
    typed = [one.target for one in statements if isinstance(one, ast.AnnAssign)]
    return {target.id for target in [*plain, *typed] if isinstance(target, ast.Name)}


def _heading(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(line.removeprefix("# ") for line in lines if line.startswith("# "))


def _page(package: str, entries: list[str]) -> str:
    return "\n".join([f"# {ABOUT.get(package, package.capitalize())}\n", *entries])


def _expanded(nav: list[Any], folders: dict[str, list[Any]]) -> list[Any]:
    found: list[Any] = []
    for entry in nav:
        if isinstance(entry, str) and entry.endswith("/*"):
            found.extend(folders[entry.removesuffix("/*")])
        elif isinstance(entry, dict):
            found.append(
                {
                    title: _expanded(inner, folders) if isinstance(inner, list) else inner
                    for title, inner in entry.items()
                }
            )
        else:
            found.append(entry)
    return found
