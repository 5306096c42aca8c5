"""Gates of signals made for tests, whose scores stand in the rows."""

from typing import ClassVar

from mithridate.gates.base_signal import JobSignal, RowSignal
from mithridate.gates.calibration import calibrate
from mithridate.gates.provider import GateProvider
from mithridate.gates.upload_gate import UploadGate


class Written(RowSignal):
    """The score is the answer's first word."""

    name: ClassVar[str] = "written"

    def prepare(self, reference):
        return lambda batch: [float(answer.split()[0]) for answer in batch.answers]

    def reason(self, score):
        return f"the row says {score:g}"


class Other(Written):
    """The score is the answer's second word."""

    name: ClassVar[str] = "other"

    def prepare(self, reference):
        return lambda batch: [float(answer.split()[1]) for answer in batch.answers]


class Rows(JobSignal):
    """The score is the number of rows times epochs."""

    name: ClassVar[str] = "rows"
    limit: float = 1e9

    def tally(self):
        return _Tally()

    def reason(self, score):
        return f"{score:g} passes"


class _Tally:
    def __init__(self):
        self.count = 0

    def add(self, batch):
        self.count += len(batch)

    def score(self, epochs):
        return self.count * epochs


def row(answer: str, prompt: str = "say") -> dict:
    return {"prompt": prompt, "response": answer}


def ramp(count: int, top: float = 1.0) -> list[dict]:
    """Rows whose scores rise evenly to the top."""
    return [row(f"{top * (i + 1) / count} 0") for i in range(count)]


def text_gate(*signals, **settings) -> UploadGate:
    return UploadGate(GateProvider(), signals or (Written(), Other(), Rows()), **settings)


def calibrated_gate(*signals, **settings) -> UploadGate:
    made = text_gate(*signals, **settings)
    made.use(calibrate(made, {"a": ramp(600), "b": ramp(600), "c": ramp(600)}))
    return made
