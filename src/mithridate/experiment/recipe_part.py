"""The base of every part of a recipe."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

_NUMBERS = (int, float, int | None, float | None)
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What transformers takes as a seed."""


class RecipePart(BaseModel):
    """A part of the recipe; unknown keys are refused, as are numbers without end and truth values for numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[info.field_name or ""].annotation
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in items) and wanted not in (bool, str, str | None):
            raise ValueError(
                "must be a number" if wanted in _NUMBERS else "must not be true or false (put words in quotes)"
            )
        return value
