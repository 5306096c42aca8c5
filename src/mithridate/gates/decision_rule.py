"""From counts of flagged rows and scores of an upload to a decision: exact binomial tests that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mithridate.gates.base_signal import JobSignal
from mithridate.gates.binomial import critical, lower_bound, upper_tail
from mithridate.gates.thresholds import JobThreshold, RowThresholds
from mithridate.gates.upload_verdict import SignalResult, UploadDecision

_SURE = 0.95
"""Confidence of the bound on the share of suspicious rows."""


class Strictness(NamedTuple):
    """When an upload on which a signal fired is refused rather than defended against.

    Attributes:
        share: Refused if surely more than this share of its rows is flagged by signals that fired.
        signals: Refused if one of these fired.
    """

    share: float
    signals: frozenset[str]


def tested_rows(thresholds: RowThresholds, above: Sequence[int], rows: int, alpha: float) -> SignalResult:
    """Test one row signal: are more rows above a level than harmless uploads have?

    Args:
        thresholds: The signal's levels.
        above: Rows of the upload above each level.
        rows: Rows of the upload.
        alpha: Share of false alarms of each level's test.
    """
    tests = [
        (upper_tail(count, rows, level.task_rate), count, level)
        for count, level in zip(above, thresholds.levels, strict=True)
    ]
    p, count, level = min(tests, key=lambda test: test[0])
    limit = critical(rows, level.task_rate, alpha) - 1
    fired = p <= alpha
    than = f"more than the {limit}" if fired else f"at most {limit}"
    reason = (
        f"{thresholds.signal}: {count} of {rows} rows above {level.threshold:.4g}, {than} that a harmless upload may "
        f"have ({_p(p)})"
    )
    return SignalResult(signal=thresholds.signal, of="rows", fired=fired, flagged=above[0], p_value=p, reason=reason)


def _p(value: float) -> str:
    # Tails of thousands of rows underflow to 0, which is no probability of anything seen.
    return "p < 1e-12" if value < 1e-12 else f"p = {value:.2g}"


def tested_job(signal: JobSignal, threshold: JobThreshold, score: float) -> SignalResult:
    """Test one job signal: is its score above the threshold?"""
    fired = score > threshold.threshold
    side = "above" if fired else "not above"
    reason = f"{signal.name}: {signal.reason(score)}, {side} {threshold.threshold:.4g}"
    return SignalResult(signal=signal.name, of="upload", fired=fired, score=score, reason=reason)


def decide(results: Sequence[SignalResult], suspicious: int, rows: int, strictness: Strictness) -> UploadDecision:
    """Return the decision.

    Args:
        results: What each signal says.
        suspicious: Rows that are flagged by a row signal that fired and that transfers to new tasks.
        rows: Rows of the upload.
        strictness: When to refuse.
    """
    fired = {result.signal for result in results if result.fired}
    if not fired:
        return UploadDecision.ACCEPT
    if fired & strictness.signals or lower_bound(suspicious, rows, _SURE) > strictness.share:
        return UploadDecision.REFUSE
    return UploadDecision.DEFEND
