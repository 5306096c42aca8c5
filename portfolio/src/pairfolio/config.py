"""Every setting of a run: typed, bounded, unknown keys refused, written beside the results."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pairfolio.errors import SettingsError

Kind = Literal["lstm", "gru", "tcn", "tabl", "mlp"]
Term = Literal["proximity", "bias", "variance", "none"]
Anchor = Literal["minimum_variance", "half"]
Positive = Annotated[int, Field(ge=1)]
Days = Annotated[float, Field(gt=0)]
Strength = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FeatureSettings(_Part):
    """What the network sees of each asset at each bar."""

    horizons: tuple[Positive, ...] = Field((1, 3, 6, 24), min_length=1)
    volume_bars: int = Field(48, ge=2)


class NetworkSettings(_Part):
    """The network, and the bars in its window."""

    kind: Kind = "lstm"
    window: int = Field(24, ge=2, le=512)
    hidden: int = Field(32, ge=1, le=1024)
    dropout: float = Field(0.1, ge=0, lt=1)


class LossSettings(_Part):
    """−Sharpe net of costs + strength × term."""

    term: Term = "proximity"
    strength: Strength = 1.0
    anchor: Anchor = "minimum_variance"
    fee: float = Field(0.00075, ge=0, le=0.05)

    @model_validator(mode="after")
    def _variance_needs_its_minimum(self) -> Self:
        if self.term == "variance" and self.anchor != "minimum_variance":
            raise ValueError("the variance term is measured from the minimum variance; leave anchor at that")
        return self


class TrainingSettings(_Part):
    """Adam over blocks of bars kept in time order."""

    epochs: int = Field(30, ge=1)
    patience: int = Field(8, ge=1)
    early_stop: bool = True
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    block: int = Field(180, ge=4)


class WalkSettings(_Part):
    """Train, validate, test, roll on by the test span; a window of bars is purged between the three."""

    train_days: Days = 180
    validation_days: Days = 30
    test_days: Days = 90


class RollingSettings(_Part):
    """The rolling rules: look back this far, anew this often."""

    lookback_days: Days = 60
    refit_days: Days = 7


class UncertaintySettings(_Part):
    """Circular block bootstrap of the Sharpe ratio, and weights shifted in time."""

    samples: int = Field(1000, ge=10)
    block_days: Days = 5
    level: float = Field(0.95, gt=0, lt=1)
    shifts: int = Field(200, ge=1)
    seed: int = 0


class SelectionSettings(_Part):
    """What is tried on the earlier span: every network with every strength; the best net Sharpe wins."""

    networks: tuple[Kind, ...] = Field(("lstm", "tabl", "mlp"), min_length=1)
    strengths: tuple[Strength, ...] = Field((0.0, 0.3, 1.0, 3.0), min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.networks)) < len(self.networks) or len(set(self.strengths)) < len(self.strengths):
            raise ValueError("a network or strength is named twice; a trial counts once")
        return self


class FinalSettings(_Part):
    """The span set aside: no bar from `start` on is read until the one final test.

    Attributes:
        start: Its first opening time, UTC unless it says otherwise.
        record: File, one line a look; it makes a second look visible.
    """

    start: datetime
    record: str = Field("pairfolio-final.jsonl", min_length=1)

    @field_validator("start")
    @classmethod
    def _in_utc(cls, start: datetime) -> datetime:
        return start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)


class Settings(_Part):
    """A whole run."""

    features: FeatureSettings = FeatureSettings()
    network: NetworkSettings = NetworkSettings()
    loss: LossSettings = LossSettings()
    training: TrainingSettings = TrainingSettings()
    walk: WalkSettings = WalkSettings()
    rolling: RollingSettings = RollingSettings()
    uncertainty: UncertaintySettings = UncertaintySettings()
    selection: SelectionSettings | None = None
    final: FinalSettings | None = None
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    bars_per_year: float | None = Field(None, gt=0)

    @property
    def final_start(self) -> pd.Timestamp | None:
        """First opening time set aside, or None."""
        return None if self.final is None else pd.Timestamp(self.final.start)

    @model_validator(mode="after")
    def _a_choice_needs_a_term(self) -> Self:
        if self.selection is not None and self.loss.term == "none":
            raise ValueError("selection tries strengths of a term; name one in loss.term")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is named twice, which would count its network double")
        return self


def load_settings(path: Path) -> Settings:
    """Read settings from JSON, such as the config.json of an earlier run.

    Raises:
        SettingsError: If the file is missing, no JSON, or holds an unknown key or a value out of range.
    """
    try:
        return Settings.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read ({error}); give a JSON file of settings") from error
    except ValidationError as error:
        raise SettingsError(f"{path}: {first_fault(error)}") from error


def override(settings: Settings, changes: dict[str, object]) -> Settings:
    """Settings with some values replaced.

    Args:
        settings: The base.
        changes: Dotted name to value, such as `{"loss.strength": 0.1}`.

    Raises:
        SettingsError: If a value is out of range.
    """
    tree = settings.model_dump()
    for name, value in changes.items():
        *parts, last = name.split(".")
        branch = tree
        for part in parts:
            # An optional part that is not set begins empty.
            branch[part] = branch[part] or {}
            branch = branch[part]
        branch[last] = value
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(first_fault(error)) from error


def first_fault(error: ValidationError) -> str:
    """The first fault pydantic found, as one sentence."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place + ': ' if place else ''}{fault['msg']}"
