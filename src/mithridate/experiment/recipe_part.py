"""The base of every part of a recipe."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

_NUMBERS = (int, float, int | None, float | None)
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What transformers accepts as a seed; its bound is numpy's, 32 bits."""


class RecipePart(BaseModel):
    """A part of the recipe; refuses unknown keys, infinite numbers and NaN, and truth values in place of numbers."""

    # YAML reads .inf and .nan, which would pass every bound with gt or ge and fail late, in training.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads `yes` and `on` as true, and pydantic takes true as the number 1. In fields of text pydantic refuses
        # truth values by itself.
        wanted = cls.model_fields[info.field_name or ""].annotation
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in items) and wanted not in (bool, str, str | None):
            raise ValueError(
                "must be a number" if wanted in _NUMBERS else "must not be true or false (put words in quotes)"
            )
        return value
