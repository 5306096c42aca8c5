"""What a run found, as written to results.json."""

from pydantic import BaseModel

from pairfolio.config import Settings
from pairfolio.data.pair import PairFindings
from pairfolio.evaluation.metrics import Metrics
from pairfolio.evaluation.uncertainty import Interval, Placebo
from pairfolio.learning.walkforward import FoldRecord


class StrategyResult(BaseModel):
    """One strategy over the tested bars, net of costs.

    Attributes:
        key: Name in files.
        label: Name in tables.
        sharpe: Annual Sharpe with its block-bootstrap interval.
        versus_half: Sharpe less that of half/half on the same bootstrap draws.
        spot_beta: Slope of its gross returns on the underlying's.
    """

    key: str
    label: str
    metrics: Metrics
    sharpe: Interval
    versus_half: Interval | None
    spot_beta: float | None


class SeedResult(BaseModel):
    """One seed alone."""

    seed: int
    metrics: Metrics


class RegimeFigures(BaseModel):
    """One strategy in one market situation, net of costs."""

    total_return: float
    sharpe: Interval
    max_drawdown: float
    turnover_per_year: float


class RegimeResult(BaseModel):
    """One market situation: the tested part of it."""

    name: str
    first: str
    last: str
    bars: int
    whole: bool
    strategies: dict[str, RegimeFigures]


class Tested(BaseModel):
    """The span that was traded."""

    first: str
    last: str
    bars: int
    years: float
    bars_per_year: float


class Results(BaseModel):
    """A whole run."""

    pair: tuple[str, str]
    versions: dict[str, str]
    settings: Settings
    data: PairFindings
    tested: Tested
    strategies: list[StrategyResult]
    seeds: dict[str, list[SeedResult]]
    placebo: Placebo
    next_open: Metrics | None
    regimes: list[RegimeResult]
    folds: list[FoldRecord]

    def strategy(self, key: str) -> StrategyResult:
        """The strategy of that key."""
        return next(result for result in self.strategies if result.key == key)
