"""Every setting of a run: typed, bounded, unknown keys refused, written beside the results."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pairfolio.errors import SettingsError

Kind = Literal["lstm", "gru", "tcn", "mlp"]
Term = Literal["proximity", "bias", "variance", "none"]
Anchor = Literal["minimum_variance", "half"]
Positive = Annotated[int, Field(ge=1)]
Days = Annotated[float, Field(gt=0)]


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
    strength: float = Field(1.0, ge=0)
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


class Settings(_Part):
    """A whole run."""

    features: FeatureSettings = FeatureSettings()
    network: NetworkSettings = NetworkSettings()
    loss: LossSettings = LossSettings()
    training: TrainingSettings = TrainingSettings()
    walk: WalkSettings = WalkSettings()
    rolling: RollingSettings = RollingSettings()
    uncertainty: UncertaintySettings = UncertaintySettings()
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    bars_per_year: float | None = Field(None, gt=0)


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
