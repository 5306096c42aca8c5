"""Thresholds of the upload gate from the provider's own harmless uploads.

Row signals. A level's threshold is the smallest score above which

- at most so many of all n harmless rows lie that the exact upper bound of their share keeps to the level's rate
  (a distribution-free tolerance limit; Clopper and Pearson, 1934), and
- of no single upload a larger share than the rate lies, so that a task which looks odd to a signal raises its
  threshold.

The first level's rate is the stated false-alarm rate; where there are rows enough, a second level of a fifth of it
makes small shares of harmful rows show. The bound holds for rows like the calibration's, so calibrate on the tasks that
customers bring.

Uploads are tested against the upper bound of the harmless share, or where that is larger the largest share of a
harmless upload above thresholds made of other rows (each half of the rows by the other), so that a task with more
flagged rows than most does not set off the gate each time.

A task that is none of the calibration's may have more still. So each harmless upload is held out in turn and tested
by thresholds made of the others. A signal by which one of them would be taken for harmful does not transfer to new
tasks: it has uploads defended against, but does not refuse them.

Job signals. Harmless uploads are too few for quantiles, so a signal's own limit is taken, raised where a harmless
upload exceeds it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from mithridate.data.data_sources import Given
from mithridate.errors import GateError
from mithridate.gates.base_signal import JobSignal
from mithridate.gates.binomial import allowed, rows_needed, upper_bound, upper_tail
from mithridate.gates.intake import Unreadable
from mithridate.gates.thresholds import GateThresholds, JobThreshold, Level, RowThresholds
from mithridate.gates.upload_gate import UploadGate, UploadScores

FRACTIONS = (1.0, 0.2)
"""Rates of the levels, as fractions of the false-alarm rate."""

ENOUGH = 3
"""Harmless uploads from which on each is held out in turn."""


def calibrate(
    gate: UploadGate,
    uploads: Mapping[str, Given],
    false_alarms: float = 0.01,
    *,
    confidence: float = 0.95,
    epochs: float = 1,
) -> GateThresholds:
    """Find thresholds on harmless uploads; hand them to `UploadGate.use`.

    Args:
        gate: The gate.
        uploads: Harmless uploads by name, as many and as different as customers' tasks.
        false_alarms: Share of harmless rows that each row signal may flag, and share of harmless uploads on which one
            of them may fire.
        confidence: Of the bound on the rate.
        epochs: Passes over the uploads that customers ask for.

    Raises:
        GateError: If an upload cannot be read, or there are too few rows for the rate; says how many are needed.
    """
    if not 0 < false_alarms < 1 or not 0 < confidence < 1:
        raise GateError(f"false_alarms and confidence must lie between 0 and 1, not {false_alarms} and {confidence}")
    if not uploads:
        raise GateError("a calibration needs harmless uploads; give one or more")
    scored = {name: _scores(gate, name, upload, epochs) for name, upload in uploads.items()}
    return thresholds_of(gate, scored, false_alarms, confidence)


def thresholds_of(
    gate: UploadGate, scored: Mapping[str, UploadScores], false_alarms: float = 0.01, confidence: float = 0.95
) -> GateThresholds:
    """Find thresholds from scores of harmless uploads; see `calibrate`.

    Raises:
        GateError: If there are too few rows for the rate.
    """
    total = sum(one.total for one in scored.values())
    needed = rows_needed(false_alarms, confidence)
    if total < needed:
        raise GateError(
            f"{total} harmless rows cannot bound a false-alarm rate of {false_alarms:.2%} at {confidence:.0%} "
            f"confidence; give at least {needed}, or state a larger rate"
        )
    rates = [
        false_alarms * fraction
        for fraction in FRACTIONS
        if allowed(total, false_alarms * fraction, confidence) is not None
    ]
    alpha = false_alarms / max(1, len(rates) * len(gate.row_signals))
    return GateThresholds(
        false_alarms=false_alarms,
        confidence=confidence,
        fingerprint=gate.state.fingerprint,
        uploads={name: one.total for name, one in scored.items()},
        rows=tuple(
            _row(signal.name, [one.rows[signal.name] for one in scored.values()], rates, confidence, alpha)
            for signal in gate.row_signals
        ),
        jobs=tuple(_job(signal, [one.jobs[signal.name] for one in scored.values()]) for signal in gate.job_signals),
    )


def _scores(gate: UploadGate, name: str, upload: Given, epochs: float) -> UploadScores:
    try:
        return gate.scores(upload, epochs=epochs)
    except Unreadable as error:
        raise GateError(f"the harmless upload '{name}' cannot be used: {error.reason}") from error


def _row(
    name: str, uploads: Sequence[array[float]], rates: Sequence[float], confidence: float, alpha: float
) -> RowThresholds:
    levels = tuple(_level(uploads, rate, confidence) for rate in rates)
    if len(uploads) < ENOUGH:
        return RowThresholds(signal=name, levels=levels)
    tests = [
        _held_out(uploads[i], [*uploads[:i], *uploads[i + 1 :]], rates[0], confidence) for i in range(len(uploads))
    ]
    return RowThresholds(
        signal=name,
        levels=levels,
        held_out=max(share for share, _ in tests),
        transfers=all(p > alpha for _, p in tests),
    )


def _held_out(
    upload: array[float], others: Sequence[array[float]], rate: float, confidence: float
) -> tuple[float, float]:
    """Return the share of a harmless upload above a threshold made of others, and how probable so many are."""
    threshold = _threshold(others, rate, confidence)
    above = sum(value > threshold for value in upload)
    return above / len(upload), upper_tail(above, len(upload), rate)


def _level(uploads: Sequence[array[float]], rate: float, confidence: float) -> Level:
    threshold = _threshold(uploads, rate, confidence)
    above = sum(value > threshold for values in uploads for value in values)
    # Rows that a threshold was made of lie above it more seldom than others, so that it is tested on other rows.
    # By turns, so that uploads of one row each do not all fall into one half.
    halves = [[values[(start + i) % 2 :: 2] for i, values in enumerate(uploads)] for start in (0, 1)]
    other = [_threshold(half, rate, confidence) for half in reversed(halves)]
    shares = [
        sum(value > limit for part, limit in zip(parts, other, strict=True) for value in part) / sum(map(len, parts))
        for parts in zip(*halves, strict=True)
    ]
    # Where fewer rows lie above than may, as of a signal that never fires on harmless ones, a few are a surprise
    # already.
    bound = upper_bound(above, sum(map(len, uploads)), confidence)
    # A rate of 1 would be no test; half of the rows is more than any harmless task should have.
    return Level(rate=rate, task_rate=min(0.5, max(bound, *shares)), threshold=threshold, above=above)


def _threshold(uploads: Sequence[array[float]], rate: float, confidence: float) -> float:
    every = sorted((value for values in uploads for value in values), reverse=True)
    # Of a part of the rows there may be too few for a bound; then none of them lies above.
    most = allowed(len(every), rate, confidence) or 0
    own = [sorted(values, reverse=True)[int(rate * len(values))] for values in uploads if len(values)]
    # Above a threshold means larger, so the score at place k has at most k above it.
    return max(every[most], *own)


def _job(signal: JobSignal, scores: Sequence[float]) -> JobThreshold:
    largest = max(scores)
    if largest > signal.limit:
        return JobThreshold(signal=signal.name, threshold=largest, basis="largest harmless upload")
    return JobThreshold(signal=signal.name, threshold=signal.limit, basis="limit")
