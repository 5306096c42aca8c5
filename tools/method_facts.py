"""What a method's registration and settings say, as rows of tables."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import griffe
import yaml

from mithridate.errors import SettingError
from mithridate.settings import Info
from tools.cards import Paper

STAGES = {"alignment": "before fine-tuning", "finetuning": "during fine-tuning", "posttuning": "after fine-tuning"}
MODELS = {
    "base": "the base model, before alignment",
    "aligned": "the aligned model, before fine-tuning",
    "start": "the weights the stage starts from",
}
BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
KINDS = {
    "number": "number",
    "integer": "whole number",
    "boolean": "`true`, `false`",
    "string": "text",
    "array": "list",
    "object": "names with values",
}


def shipped(infos: Mapping[str, Info]) -> dict[str, Info]:
    """Return the methods of this package; plug-ins that happen to be installed have their own docs."""
    return {name: info for name, info in infos.items() if info.cls.__module__.startswith("mithridate.")}


def facts(info: Info, paper: Paper | None) -> Iterator[tuple[str, str]]:
    """Yield name and value of each fact about a method."""
    yield "Class", f"`mithridate.{info.cls.__name__}`"
    yield "Acts", ", ".join(f"{STAGES[stage]} (`{stage}`)" for stage in info.stages)
    yield "Rows it needs", ", ".join(f"`{stream}`" for stream in info.streams) or "none of its own"
    if info.references:
        yield "Models it needs", ", ".join(f"`{name}` ({MODELS[name]})" for name in info.references)
    unit = "over the rows it needs, once" if "posttuning" in info.stages else "per optimizer step"
    extra = f"; {info.extra}" if info.extra else ""
    yield "Passes", f"{info.forward} forward, {info.backward} backward {unit}{extra}"
    if info.off:
        yield "Off", ", ".join(f"`{name}: {_yaml(value)}`" for name, value in info.off.items())
    if paper is not None:
        title = f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else paper.title
        yield "Paper", f"{paper.authors}: {title}, {paper.venue} {paper.year}"
        if paper.code:
            yield "Authors' code", f"<{paper.code}> (license: {paper.license or 'not seen'})"


def settings(info: Info) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, default, values and meaning of each setting, the method's own first."""
    schema = info.cls.model_json_schema()
    meanings = _meanings(info.cls)
    own = [name for name in info.cls.model_fields if name in info.cls.__annotations__]
    for name in sorted(info.cls.model_fields, key=lambda name: name not in own):
        field = schema["properties"][name]
        default = f"`{_yaml(field['default'])}`" if field.get("default") is not None else "–"
        yield f"`{name}`", default.replace("|", r"\|"), _values(field, schema), meanings.get(name, "")


def _values(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Say in words what a setting takes."""
    if "$ref" in field:
        field = schema["$defs"][field["$ref"].rpartition("/")[2]]
    if "anyOf" in field:
        return " or ".join(_values(form, schema) for form in field["anyOf"] if form.get("type") != "null")
    if "enum" in field or "const" in field:
        return ", ".join(f"`{_yaml(value)}`" for value in field.get("enum", [field.get("const")]))
    bounds = ", ".join(words.format(f"{field[key]:g}") for key, words in BOUNDS.items() if key in field)
    return " ".join(filter(None, [KINDS.get(field.get("type", ""), ""), bounds]))


def _meanings(cls: type) -> dict[str, str]:
    """Collect the attributes' descriptions from the docstrings of a class and of those it extends."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        for section in griffe.Docstring(inspect.cleandoc(owner.__doc__ or "")).parse("google", warnings=False):
            if isinstance(section, griffe.DocstringSectionAttributes):
                found |= {part.name: one_line(part.description) for part in section.value}
    return {name: text.replace("|", r"\|") for name, text in found.items()}


def examples(info: Info) -> tuple[str, str]:
    """Return one line for a recipe and one for Python with the defaults; empty where a setting must be chosen first."""
    try:
        info.cls()
    except SettingError:
        return "", ""
    recipe = "\n".join(f"{stage}: {{method: {info.name}}}" for stage in info.stages if stage != "posttuning")
    recipe = recipe or f"variants:\n  - {{name: repaired, posttuning: {{method: {info.name}}}}}"
    return recipe, f"import mithridate as mi\n\ndefense = mi.{info.cls.__name__}()"


def one_line(text: str) -> str:
    """Return the text without line breaks."""
    return " ".join(text.split())


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
