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


class Trial(BaseModel):
    """One network with one strength of the term, on the earlier span; Sharpe a year, net of costs."""

    network: str
    strength: float
    sharpe: float | None


class Choice(BaseModel):
    """The trials on the earlier span; one where nothing was chosen.

    Attributes:
        trials: In the order tried.
        chosen: Number of the trial kept, from 0.
        deflated: Probability that the true Sharpe of the trial kept is above zero, given how many were tried.
    """

    trials: list[Trial]
    chosen: int
    deflated: float | None


class FinalResult(BaseModel):
    """The final test, on bars that nothing was chosen on.

    Attributes:
        tested: Its bars.
        look: Which look at them this is; only the first is a final test.
        looked_before: When the others were.
        strategies: As for the earlier span.
    """

    tested: Tested
    look: int
    looked_before: list[str]
    strategies: list[StrategyResult]

    def strategy(self, key: str) -> StrategyResult:
        """The strategy of that key."""
        return next(result for result in self.strategies if result.key == key)


class Results(BaseModel):
    """A whole run; all but `final` belongs to the earlier span."""

    pair: tuple[str, str]
    versions: dict[str, str]
    settings: Settings
    data: PairFindings
    tested: Tested
    choice: Choice
    strategies: list[StrategyResult]
    seeds: dict[str, list[SeedResult]]
    placebo: Placebo
    next_open: Metrics | None
    regimes: list[RegimeResult]
    folds: list[FoldRecord]
    final: FinalResult | None

    def strategy(self, key: str) -> StrategyResult:
        """The strategy of that key."""
        return next(result for result in self.strategies if result.key == key)
