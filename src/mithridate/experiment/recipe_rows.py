"""Defines how a recipe names its rows."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from mithridate.data import RowFields
from mithridate.errors import RecipeError
from mithridate.experiment.recipe_attacks import NamedAttack
from mithridate.experiment.recipe_part import RecipePart

DATA = "$MITHRIDATE_DATA"
"""Placeholder for the folder of third-party data."""


class Source(RecipePart):
    """Rows by name; a bare string stands for ``{source: …}``.

    Attributes:
        source: A path (``$MITHRIDATE_DATA`` is filled in), the name of a hub data set, or ``miniature:…``.
        start: First row to take, in the file's order.
        size: Number of rows to take; all by default.
        fields: Where to find prompt and response, or the messages, in rows of no known format.
        ignore: Keys of the rows to leave out on purpose; ``messages.name`` for a key of messages.
        subset: Subset of a hub data set.
        split: Split of a data set, if it has several.
    """

    source: str
    start: int = Field(0, ge=0)
    size: int | None = Field(None, ge=1)
    fields: RowFields | None = None
    ignore: list[str] = Field(default_factory=list)
    subset: str | None = None
    split: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Source":
        # A key that has no effect is refused rather than ignored, or its author would believe in one.
        if self.fields and self.fields.messages is None and self.ignore:
            raise ValueError("with fields, only the columns that they name are read; remove ignore")
        return self

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


Sources = Source | list[Source]
"""One source, or several whose rows are joined in this order."""


class PromptSource(Source):
    """Prompts by name.

    Attributes:
        group: What they have in common, such as a kind of harm; scores are then also told for each group.
    """

    group: str | None = Field(None, min_length=1)


def _all_or_none(sources: PromptSource | list[PromptSource]) -> PromptSource | list[PromptSource]:
    several = sources if isinstance(sources, list) else [sources]
    # Prompts of no group would count in the score and in none of its parts.
    if len({one.group is None for one in several}) > 1:
        raise ValueError("some sources have a group and some have none; give all of them one, or none")
    return sources


PromptSources = Annotated[
    PromptSource | Annotated[list[PromptSource], Field(min_length=1)], AfterValidator(_all_or_none)
]
"""One source of prompts, or several that are joined in this order."""


class UploadChoice(NamedAttack):
    """The attack that makes the upload, beside its own settings.

    Attributes:
        source: The attacker's harmful rows, if they do not stand under ``harmful``.
        surrogate: A model that the attacker can read, for attacks that need one; that of the recipe by default.
    """

    source: Sources | None = None
    surrogate: str | None = None


class User(RecipePart):
    """The upload: benign rows of a task, poisoned with harmful ones.

    Attributes:
        benign: Rows of the user's own task.
        harmful: The attacker's harmful rows.
        attack: The attack that makes the upload; without one, harmful rows are mixed in as they are.
        ratio: p, share of harmful rows, or of whatever rows the attack makes.
        size: n, number of rows.
        held_out: Rows of the upload kept out of training, on which ``strength: auto`` measures its budget.
    """

    benign: Sources
    harmful: Sources | None = None
    attack: UploadChoice | None = None
    ratio: float = Field(0.1, ge=0, le=1)
    size: int = Field(1000, ge=1)
    held_out: int = Field(0, ge=0)

    @property
    def attacker(self) -> Sources | None:
        """The attacker's harmful rows, wherever they are named."""
        return self.harmful if self.attack is None or self.attack.source is None else self.attack.source

    @model_validator(mode="after")
    def _attacked(self) -> "User":
        if self.harmful is None and self.attack is None:
            raise ValueError("'harmful' is missing; set it, or name an attack")
        return self


class Streams(RecipePart):
    """All rows a run uses.

    Attributes:
        user: The upload.
        safe: The provider's safe rows.
        harmful: The provider's harmful rows, disjoint from the upload.
        refusals: Refusal sentences: ``default``, ``miniature:refusals``, a text file with one a line, or a list.
        alignment: Rows of the alignment stage, where they are others than ``safe``: whoever aligned a model may have
            known kinds of harm that the provider's rows are not about.
    """

    user: User
    safe: Sources
    harmful: Sources
    refusals: str | list[str] = "default"
    alignment: Sources | None = None


def with_data_folder(source: str, key: str) -> str:
    """Return a source with ``$MITHRIDATE_DATA`` filled in.

    Args:
        source: The source as the recipe names it.
        key: Where the recipe names it, for messages.

    Raises:
        RecipeError: If it uses ``$MITHRIDATE_DATA``, which is not set.
    """
    # An empty variable counts as unset: it would turn the source into a path from the root.
    folder = os.environ.get(DATA[1:])
    if DATA in source and not folder:
        raise RecipeError(
            f"{key}: {source} uses {DATA}, which is not set; set MITHRIDATE_DATA to the folder of the data sets"
        )
    return source.replace(DATA, folder or "")


def resolved_path(source: str, folder: Path, key: str) -> str:
    """Return a source with ``$MITHRIDATE_DATA`` filled in; relative paths are looked up in the recipe's folder first.

    Raises:
        RecipeError: As for `with_data_folder`.
    """
    filled = with_data_folder(source, key)
    # `miniature:…` is not a path. What does not lie beside the recipe may lie in the working folder or be a data set of
    # the hub; the reader of rows tells these apart.
    if ":" in filled.split("/")[0] or Path(filled).is_absolute() or not (folder / filled).exists():
        return filled
    return str(folder / filled)
