"""Several saved models and the fixed rules side by side, on the same bars, at the same costs."""

import numpy as np
import pandas as pd
from pydantic import BaseModel

from pairfolio.apply import check_fit, decidable
from pairfolio.backtest import versions
from pairfolio.config import override
from pairfolio.data.findings import stamp
from pairfolio.data.pair import Pair, PairFindings
from pairfolio.errors import ModelError, SettingsError
from pairfolio.evaluation.ledger import settle
from pairfolio.figures import Scale, strategy_results, traded_returns, traded_span
from pairfolio.final import record_look
from pairfolio.learning.model import decide_bars
from pairfolio.learning.walkforward import Walk
from pairfolio.modelfile import SavedModel
from pairfolio.results import StrategyResult, Tested
from pairfolio.strategies.roster import labels, rules


class Compared(BaseModel):
    """One saved model of a comparison."""

    name: str
    sha256: str
    network: str
    term: str
    strength: float
    costs: float
    last_bar: str


class Comparison(BaseModel):
    """Models and rules on the same bars.

    Attributes:
        fee: Paid by all; a model may have been trained at another.
    """

    pair: tuple[str, str]
    versions: dict[str, str]
    data: PairFindings
    tested: Tested
    fee: float
    models: list[Compared]
    strategies: list[StrategyResult]
    notes: list[str]


def compare(
    models: dict[str, SavedModel],
    pair: Pair,
    *,
    start: pd.Timestamp | None = None,
    fee: float | None = None,
    allow_overlap: bool = False,
    other_assets: bool = False,
    final: bool = False,
) -> Comparison:
    """Trade every model and every rule on the bars that all the models may decide.

    The windows of the rolling rules, the bootstrap and the bars per year are those of the first model's
    settings; the static rule holds the first model's w*.

    Args:
        models: By name, at least one.
        pair: The candles.
        start: First bar traded.
        fee: Share of the traded value; by default that of the models.
        allow_overlap: Trade bars that a model was trained on.
        other_assets: Do not ask for proof that these are the assets trained on.
        final: Trade bars that a model's settings set aside, and record the look.

    Raises:
        ModelError: If a model does not fit the bars, has seen some of them, or sets some aside.
        SettingsError: If the models' costs differ and no fee is given, or fewer than two bars are left.
    """
    notes = [
        f"{name}: {note}" for name, saved in models.items() for note in check_fit(saved, pair, other_assets)
    ]
    paid = _fee(models, fee)
    # The last bar has no next return to earn.
    decisions = decidable(pair, list(models.values()), start, allow_overlap)[:-1]
    if len(decisions) < 2:
        raise SettingsError(f"{len(decisions)} bars can be traded; give a longer range")
    notes += _looks(models, pair, decisions, final)
    tested = traded_returns(pair, decisions)
    ledgers = {
        name: settle(decide_bars(saved.model, pair, decisions).mean(axis=0), tested, paid)
        for name, saved in models.items()
    }
    first = next(iter(models.values()))
    settings = override(first.record.settings, {"loss.fee": paid})
    walk = Walk(decisions, np.empty((0, len(decisions))), [], first.record.minimum_variance_weight)
    ledgers |= rules(pair, walk, settings)
    scale = Scale(pair, settings)
    names = labels(pair, settings) | {name: f"model {name}" for name in models}
    return Comparison(
        pair=pair.names,
        versions=versions(),
        data=pair.findings,
        tested=traded_span(pair, decisions, scale),
        fee=paid,
        models=[_line(name, saved) for name, saved in models.items()],
        strategies=strategy_results(pair, decisions, ledgers, names, scale),
        notes=notes + _other_costs(models, paid),
    )


def _looks(models: dict[str, SavedModel], pair: Pair, decisions: range, allowed: bool) -> list[str]:
    """Refuse bars that a model sets aside, or record that they are looked at."""
    notes = []
    for name, saved in models.items():
        start = saved.record.settings.final_start
        if start is None or pair.times[decisions[-1] + 1] < start:
            continue
        if not allowed:
            raise ModelError(
                f"{name}: its settings set aside the bars from {stamp(start)} on for one final test; compare "
                f"before them with --end {stamp(start)}, or take that look with --final"
            )
        number = record_look(pair, saved.record.settings)
        notes.append(f"{name}: look {number} at the bars set aside from {stamp(start)} on")
    return notes


def _fee(models: dict[str, SavedModel], fee: float | None) -> float:
    trained = {saved.record.costs for saved in models.values()}
    if fee is None and len(trained) > 1:
        listed = ", ".join(f"{name} {10_000 * saved.record.costs:g}" for name, saved in models.items())
        raise SettingsError(
            f"the models were trained at different costs ({listed} bp); name one with --fee-bps"
        )
    return next(iter(trained)) if fee is None else fee


def _other_costs(models: dict[str, SavedModel], paid: float) -> list[str]:
    return [
        f"{name}: trained at {10_000 * saved.record.costs:g} bp, traded here at {10_000 * paid:g} bp"
        for name, saved in models.items()
        if saved.record.costs != paid
    ]


def _line(name: str, saved: SavedModel) -> Compared:
    settings = saved.record.settings
    return Compared(
        name=name,
        sha256=saved.sha256,
        network=settings.network.kind,
        term=settings.loss.term,
        strength=settings.loss.strength,
        costs=saved.record.costs,
        last_bar=saved.record.last_bar,
    )
