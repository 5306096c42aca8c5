"""A share of answers over several seeds: the only place where seeds are summed up."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mithridate.evaluation.intervals import Score, pooled
from mithridate.report.seed_statistics import t_interval

# A Wilson bound may leave 0..1 by one rounding error.
ROUNDING = 1e-9

Share = Annotated[float, Field(ge=-ROUNDING, le=1 + ROUNDING, allow_inf_nan=False)]


class ResultPart(BaseModel):
    """Base of every part of `results.json`: unknown keys are kept, numbers that are not finite are written as null."""

    # Keys of a newer version survive being read and written; NaN is no JSON, and strict parsers refuse the file.
    model_config = ConfigDict(extra="allow", ser_json_inf_nan="null")


class ScoreOverSeeds(ResultPart):
    """A share of answers, summed up over the seeds in two ways.

    Attributes:
        value: Share of all answers of all seeds, in 0..1.
        low: Lower end of its 95 % interval (Wilson, widened by what the seeds differ beyond chance).
        high: Upper end.
        n: Number of judged answers.
        seeds: The share of each seed, in the order of `Results.seeds`.
        seed_mean: Mean of the seeds' shares.
        seed_low: Lower end of its 95 % interval (Student's t, whose unit is the seed); None with a single seed.
        seed_high: Upper end.
    """

    value: Share
    low: Share
    high: Share
    n: int = Field(ge=0)
    seeds: list[Share] = []
    seed_mean: Share | None = None
    seed_low: Share | None = None
    seed_high: Share | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the interval is upside down: low {self.low} is above high {self.high}")
        return self

    @property
    def mean(self) -> float:
        """Mean over seeds; the share of all answers where the seeds are not known."""
        return self.value if self.seed_mean is None else self.seed_mean

    @property
    def spread(self) -> tuple[float, float]:
        """The interval over seeds where there are several, the pooled one otherwise."""
        if self.seed_low is None or self.seed_high is None:
            return self.low, self.high
        return self.seed_low, self.seed_high


def over_seeds(seeds: Sequence[Sequence[bool]]) -> ScoreOverSeeds:
    """Sum up a yes or no for every answer, one sequence per seed.

    Raises:
        UsageError: If there is no seed, or a seed without an answer.
    """
    scores = [Score.of(sum(answers), len(answers)) for answers in seeds]
    return summed_up(scores)


def summed_up(scores: Sequence[Score]) -> ScoreOverSeeds:
    """Sum up the scores of several seeds."""
    together, values = pooled(scores), [score.value for score in scores]
    low = high = None
    if len(values) > 1:
        _, lower, upper = t_interval(values)
        low, high = max(0.0, lower), min(1.0, upper)  # a share lies in 0..1
    return ScoreOverSeeds(
        **together.as_dict(), seeds=values, seed_mean=sum(values) / len(values), seed_low=low, seed_high=high
    )
