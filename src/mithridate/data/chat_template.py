"""Chat templates: every tokenizer that trains or generates must have one that can be trusted."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jinja2 import TemplateError

from mithridate.errors import ModelError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILT_IN = ("alpaca",)
"""Templates that come with the package."""

TEMPLATE_FAULTS = (
    TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError,
)  # fmt: skip
"""What rendering raises: Jinja's own errors, and Python's where an expression meets a value of another type."""

Door = Literal["recipe", "command", "python"]
"""Where a user names the template: a recipe, the command line, or Python."""

_SET = {
    "recipe": "set the recipe key `template` to 'alpaca' or to the path of a .jinja file",
    "command": "give --template alpaca, or --template with the path of a .jinja file",
    "python": "set tokenizer.chat_template, or call mithridate.data.ensure_chat_template(tokenizer, 'alpaca')",
}
_NAMED = {
    "recipe": "the recipe key `template`",
    "command": "--template",
    "python": "the argument template",
}

_ASKED = [{"role": "user", "content": "Name a color."}]
_ANSWER = {"role": "assistant", "content": "Blue."}


def no_template(tokenizer: PreTrainedTokenizerBase, door: Door) -> ModelError:
    """Return the error for a tokenizer that cannot lay out a conversation, with what to do about it."""
    name = str(tokenizer.name_or_path or "")
    return ModelError(f"The tokenizer{f' of {name}' if name else ''} has no chat template; {_SET[door]}.")


def ensure_chat_template(
    tokenizer: PreTrainedTokenizerBase, template: str | None = None, door: Door = "python"
) -> None:
    """Give a tokenizer its chat template, in place.

    Args:
        tokenizer: The model's tokenizer.
        template: `"alpaca"`, the path of a `.jinja` file, or None to keep the tokenizer's own.
        door: Where the user names the template, for messages.

    Raises:
        UsageError: There is no such template.
        ModelError: The tokenizer has no template and none is given; or the given one cannot be rendered, or
            renders a prompt differently alone than in front of its answer, or does not end the answer.
    """
    if template is not None:
        previous = tokenizer.chat_template
        tokenizer.chat_template = template_text(template, door)
        try:
            _check(tokenizer, template)
        except ModelError:
            # A caller who catches the error keeps a tokenizer that works as before.
            tokenizer.chat_template = previous
            raise
    elif not tokenizer.chat_template:
        raise no_template(tokenizer, door)


def template_text(template: str, door: Door) -> str:
    """Return the text of a chat template, unrendered.

    Args:
        template: A built-in one's name, or the path of a `.jinja` file.
        door: Where the user names it, for messages.

    Raises:
        UsageError: There is no such template, or it cannot be read.
    """
    if template in BUILT_IN:
        return (files("mithridate.data") / "templates" / f"{template}.jinja").read_text(encoding="utf-8")
    path = Path(template)
    # Only .jinja: a misspelled built-in name must not fall through to whatever file is called so.
    if path.suffix != ".jinja" or not path.is_file():
        known = ", ".join(map(repr, BUILT_IN))
        raise UsageError(
            f"There is no chat template {template!r}; give {known} or a .jinja file's path as {_NAMED[door]}."
        )
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"The chat template {template!r} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise UsageError(f"The chat template {template!r} is not UTF-8 text.") from None


def _check(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    """Check what training relies on: the prompt is a prefix of the row, and the answer ends with EOS."""
    try:
        prompt = tokenizer.apply_chat_template(_ASKED, add_generation_prompt=True, tokenize=False)
        row = tokenizer.apply_chat_template([*_ASKED, _ANSWER], tokenize=False)
    except TEMPLATE_FAULTS as error:
        raise ModelError(f"The chat template {template!r} cannot be rendered: {error}.") from error
    # TRL masks the tokens that prompt and row begin with alike; the rest of a differing prompt would be trained on.
    if not row.startswith(prompt) or _ANSWER["content"] not in row[len(prompt) :]:
        raise ModelError(
            f"The chat template {template!r} does not render a prompt as the beginning of the whole row;"
            " print what comes before the answer under add_generation_prompt too."
        )
    # Jinja renders a missing eos_token as nothing, so the rendered text is checked, not the template's.
    if row.endswith(_ANSWER["content"]):
        raise ModelError(
            f"The chat template {template!r} puts nothing after the answer (or the tokenizer has no EOS"
            " token), so that the model would never learn to stop; end the answer with eos_token."
        )
