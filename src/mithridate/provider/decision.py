"""What became of an upload: the record on disk, written before any model leaves."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mithridate.errors import DataError
from mithridate.files import write_json
from mithridate.gates.upload_verdict import UploadVerdict
from mithridate.provider.audit_figures import AuditFigures
from mithridate.provider.prompt_templates import PromptTemplate
from mithridate.provider.release_gate import ReleaseCheck

DECISION = "decision.json"

Outcome = Literal["released", "refused_at_upload", "refused_at_release"]
EXIT_CODES: dict[str, int] = {"released": 0, "refused_at_upload": 3, "refused_at_release": 4}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TriedRung(_Part):
    """One rung of the ladder that was tried.

    Attributes:
        name: Its name in the policy.
        cannot_act: Why a repair of it could not act; None where all did.
        checks: What the model had to show.
        figures: What was measured.
        harmful_prompts: Keyed hashes of the audit prompts that were answered harmfully.
    """

    name: str
    cannot_act: str | None = None
    checks: list[ReleaseCheck] = Field(default_factory=list)
    figures: AuditFigures | None = None
    harmful_prompts: list[str] = Field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the model may be released."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why the model may not be released."""
        if self.cannot_act is not None:
            return [f"{self.name}: {self.cannot_act}"]
        return [f"{self.name}: {check.sentence}" for check in self.checks if not check.passed]


class Upload(_Part):
    """The upload as it was read.

    Attributes:
        name: The file or data set as given.
        sha256: Hash of its training rows; of its bytes, where its rows were refused.
        rows: Training rows, or preference pairs, without a fault.
        held_out: How many of them were kept out of training.
    """

    name: str
    sha256: str
    rows: int
    held_out: int


class PolicyName(_Part):
    """Which policy decided: its name, and the SHA-256 of its resolved settings."""

    name: str
    sha256: str


class CountedHistory(_Part):
    """Earlier uploads of a customer that were counted together with the new one.

    Attributes:
        uploads: How many.
        rows: Rows that differ, those of the new upload included.
        left_out: Earlier uploads that another gate scored, whose counts mean nothing to this one.
    """

    uploads: int
    rows: int
    left_out: int


class Decision(_Part):
    """What became of an upload.

    Attributes:
        schema_version: Version of this structure.
        outcome: What was decided.
        reasons: Why, one sentence each.
        request: Hash of all that decides: policy, rows, model, upload, options, code.
        policy: The policy, as its file says: what a customer may ask for does not change it.
        model: Hashes of the files of the model that was tuned.
        reference: Those of the aligned model, where the tuned one is one that an earlier decision released.
        upload: The upload.
        options: What the customer asked for, the policy's own values where nothing was: epochs, learning rate and seed,
            and ``beta`` where the upload held preference pairs.
        gate: What the gate on uploads says, with the first of the flagged rows; None where the policy has no gate, or
            the upload was refused before it.
        history: Earlier uploads of the customer that were counted together with this one; None without a history.
        templates: The upload's own prompt templates in which models were asked, as the conditions number them.
        aligned: What the audit found of the model before tuning; None where the upload itself was refused.
        rungs: The rungs that were tried, in their order.
        released: Name of the rung whose model is released.
        form: Form of the weights that were judged and released.
        files: SHA-256 of each released file by name.
        versions: Versions of this package and its libraries.
        created: When; the only field that two runs with the same input differ in.
    """

    schema_version: Literal[1] = 1
    outcome: Outcome
    reasons: list[str]
    request: str
    policy: PolicyName
    model: dict[str, str]
    reference: dict[str, str] | None = None
    upload: Upload
    options: dict[str, int | float]
    gate: UploadVerdict | None = None
    history: CountedHistory | None = None
    templates: list[PromptTemplate] = Field(default_factory=list)
    aligned: AuditFigures | None = None
    rungs: list[TriedRung] = Field(default_factory=list)
    released: str | None = None
    form: Literal["merged", "int8", "int4"] = "merged"
    files: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str]
    created: str

    @property
    def exit_code(self) -> int:
        """Exit status of the command line."""
        return EXIT_CODES[self.outcome]

    @property
    def on_pairs(self) -> bool:
        """Whether the upload held preference pairs, which are tuned on with a β."""
        return "beta" in self.options

    @property
    def comparable(self) -> dict[str, Any]:
        """Everything but the time."""
        return self.model_dump(mode="json", exclude={"created"})


def write_decision(folder: Path, decision: Decision) -> None:
    """Write a decision, whole or not at all."""
    write_json(folder / DECISION, decision.model_dump(mode="json"))


def read_decision(folder: Path) -> Decision | None:
    """Return the decision in a folder; None where none was made yet.

    Raises:
        DataError: If the file is not a decision.
    """
    path = folder / DECISION
    if not path.is_file():
        return None
    try:
        return Decision.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path} is not a decision of this version; give another --out") from error
