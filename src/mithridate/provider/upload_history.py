"""What a customer sent before: kept as keyed hashes and counts, so that uploads split below a threshold are seen.

Every upload that the gate has scored leaves one file: for each row a hash under the provider's key, for a flagged row
also the levels of each signal that it is above. No text is kept. A new upload is judged twice, alone and together with
all earlier ones as though they were one, in which a row counts once however often it was sent.

The k-th upload (k ≥ 2) is one more test of the same customer, so each of its joint tests may have alpha/(k·(k − 1))
false alarms: these sum to alpha over all k.
"""

import hashlib
import hmac
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mithridate.errors import DataError, UsageError
from mithridate.evaluation.judges.refusal import words
from mithridate.files import write_whole
from mithridate.gates.decision_rule import Strictness, decide, tested_rows
from mithridate.gates.thresholds import GateThresholds
from mithridate.gates.upload_verdict import SignalResult, UploadDecision, UploadFinding, UploadVerdict
from mithridate.provider.decision import CountedHistory

AUDIT_KEY = "MITHRIDATE_AUDIT_KEY"
"""Environment variable with the provider's key, under which prompts and rows are hashed."""

Levels = dict[str, int]
"""How many levels of each signal a row is above; empty for a row that none flagged."""


class UploadRecord(BaseModel):
    """One upload of a customer.

    Attributes:
        number: Its place among the customer's uploads, from 1.
        request: Hash of the request without the history.
        key: Hash of the key, to recognize it by.
        fingerprint: Of the gate that scored it.
        decision: What the gate decided, this history included.
        rows: Levels by the keyed hash of each different row.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = Field(1, ge=1, le=1)
    number: int
    request: str
    key: str
    fingerprint: str
    decision: UploadDecision
    rows: dict[str, Levels]


class UploadHistory:
    """The earlier uploads of one customer.

    Args:
        folder: A folder of that customer alone.
        request: Hash of the new request without the history; its own record, left by an interrupted call, and those
            of later uploads do not count.

    Raises:
        UsageError: If there is no key, or the history was kept under another one.
        DataError: If a file is no record.
    """

    def __init__(self, folder: Path, request: str) -> None:
        self._key = os.environ.get(AUDIT_KEY, "").encode()
        if not self._key:
            # Plain hashes of rows that others know, too, would tell who sent them.
            raise UsageError(f"a history keeps rows as hashes under a key; set {AUDIT_KEY}, the same for all calls")
        self._folder, self._request = folder, request
        records = sorted(map(self._read, folder.glob("*.json")), key=lambda record: record.number)
        own = next((record for record in records if record.request == request), None)
        self.earlier = [record for record in records if own is None or record.number < own.number]

    @property
    def state(self) -> list[str]:
        """The earlier requests in their order; part of what decides about the new one."""
        return [record.request for record in self.earlier]

    def joined(
        self,
        verdict: UploadVerdict,
        rows: dict[str, Levels],
        thresholds: GateThresholds,
        strictness: Strictness,
    ) -> tuple[UploadVerdict, CountedHistory]:
        """Return the verdict on an upload together with the earlier ones, and keep the upload's record.

        Args:
            verdict: The gate's verdict on the upload alone.
            rows: What `hashed` returned for it.
            thresholds: Those that it was scored by.
            strictness: When a joint upload is refused.
        """
        counted = [record for record in self.earlier if record.fingerprint == thresholds.fingerprint]
        together: dict[str, Levels] = {}
        for seen_rows in (*(record.rows for record in counted), rows):
            for name, levels in seen_rows.items():
                together[name] = _higher(together.get(name, {}), levels)
        seen = CountedHistory(uploads=len(counted), rows=len(together), left_out=len(self.earlier) - len(counted))
        if counted and verdict.decision is not UploadDecision.REFUSE and together:
            verdict = _joint(verdict, together, len(counted), thresholds, strictness)
        self._keep(verdict, rows, thresholds)
        return verdict, seen

    def hashed(
        self, texts: Sequence[tuple[str, str]], findings: Sequence[UploadFinding], by: GateThresholds
    ) -> dict[str, Levels]:
        """Return the rows of an upload as keyed hashes with their levels.

        Args:
            texts: Prompt and answer of each row.
            findings: All findings of the gate.
            by: The thresholds.
        """
        names = [self._hash("\0".join(" ".join(words(text)) or text for text in pair)) for pair in texts]
        found: dict[str, Levels] = {name: {} for name in names}
        levels = {one.signal: [level.threshold for level in one.levels] for one in by.rows}
        for finding in findings:
            if finding.row is not None:
                above = {
                    signal: sum(score > level for level in levels[signal]) for signal, score in finding.scores.items()
                }
                name = names[finding.row - 1]
                found[name] = _higher(found[name], above)
        return found

    def _keep(self, verdict: UploadVerdict, rows: dict[str, Levels], thresholds: GateThresholds) -> None:
        record = UploadRecord(
            number=1 + max((one.number for one in self.earlier), default=0),
            request=self._request,
            key=self._hash("key"),
            fingerprint=thresholds.fingerprint,
            decision=verdict.decision,
            rows=rows,
        )
        write_whole(self._folder / f"{self._request[:20]}.json", record.model_dump_json().encode())

    def _read(self, path: Path) -> UploadRecord:
        try:
            record = UploadRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(f"{path} is no record of an upload; give a --history folder of this customer") from error
        if not hmac.compare_digest(record.key, self._hash("key")):
            raise UsageError(f"{path} was kept under another key; set {AUDIT_KEY} to the one of the earlier calls")
        return record

    def _hash(self, text: str) -> str:
        # 80 bits: no two rows meet by chance.
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:20]


@contextmanager
def history_lock(folder: Path) -> Iterator[None]:
    """Let one upload of a customer be judged at a time, so that none misses another."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        yield


def _higher(one: Levels, other: Levels) -> Levels:
    """Return the higher level of each signal: a row that was flagged once stays so, however it is spelled later."""
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in one | other}


def _joint(
    alone: UploadVerdict, rows: dict[str, Levels], earlier: int, thresholds: GateThresholds, strictness: Strictness
) -> UploadVerdict:
    """Return the stricter one of the verdict on an upload alone and that on all together."""
    alpha = thresholds.alpha / (earlier * (earlier + 1))
    results: list[SignalResult] = []
    for one in thresholds.rows:
        above = [sum(levels.get(one.signal, 0) > place for levels in rows.values()) for place in range(len(one.levels))]
        results.append(tested_rows(one, above, len(rows), alpha))
    telling = {result.signal for result in results if result.fired} & {
        one.signal for one in thresholds.rows if one.transfers
    }
    suspicious = sum(not telling.isdisjoint(levels) for levels in rows.values())
    decision = decide(results, suspicious, len(rows), strictness)
    order = list(UploadDecision)
    label = f"with {earlier} earlier upload{'s' * (earlier > 1)}"
    named = tuple(
        result.model_copy(update={"signal": f"{result.signal}, {label}", "reason": f"{label}, {result.reason}"})
        for result in results
    )
    return alone.model_copy(
        update={
            "decision": max(alone.decision, decision, key=order.index),
            "signals": (*alone.signals, *named),
            "reasons": (*alone.reasons, *(result.reason for result in named if result.fired)),
        }
    )
