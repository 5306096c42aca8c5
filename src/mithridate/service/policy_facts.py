"""What the service knows of its policy without loading any model: its limits, and whether it can act."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from mithridate.service.contract.api_refusal import ApiRefusal
from mithridate.service.contract.object_ids import now
from mithridate.service.database.tables import REPORTS

NO_PAIRS = (
    "this service's policy takes no preference pairs: no defense acts in tuning on them, so its operator has to allow "
    "it (finetuning.preferences); use method supervised"
)
"""Why a job with method ``dpo`` is refused."""

POLICY = "policy"
"""Name of the report on the policy."""


class PairFacts(BaseModel):
    """How a policy tunes on preference pairs.

    Attributes:
        epochs: Its epochs.
        learning_rate: Its learning rate.
        batch_size: Pairs per optimizer step.
        beta: Its β of DPO.
    """

    model_config = ConfigDict(extra="forbid")

    epochs: float
    learning_rate: float
    batch_size: int
    beta: float


class PolicyFacts(BaseModel):
    """The limits of a policy.

    Attributes:
        name: The policy's name.
        sha256: Hash of its resolved settings.
        seed: Its seed.
        epochs: Its epochs.
        most_epochs: Most that a customer may ask for.
        learning_rate: Its learning rate.
        highest_learning_rate: Highest that a customer may ask for.
        batch_size: Rows per optimizer step.
        preferences: What holds for preference pairs in place of it; None where the policy takes none.
        reads: Files and folders that it names, which a job must be able to read.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    sha256: str
    seed: int
    epochs: float
    most_epochs: float
    learning_rate: float
    highest_learning_rate: float
    batch_size: int
    preferences: PairFacts | None = None
    reads: list[str] = Field(default_factory=list)

    def of(self, kind: str) -> "PolicyFacts":
        """Return the facts for a kind of fine-tuning: those of preference pairs stand in the place of the usual ones.

        Raises:
            ApiRefusal: If the policy takes no preference pairs.
        """
        if kind != "dpo":
            return self
        own = self.preferences
        if own is None:
            raise ApiRefusal(400, NO_PAIRS, param="method.type", code="unsupported_method")
        found = {"epochs": own.epochs, "learning_rate": own.learning_rate, "batch_size": own.batch_size}
        return self.model_copy(update=found)


def report(connection: Connection, name: str, fault: str | None = None, facts: dict[str, Any] | None = None) -> None:
    """Write down what a part of the service says of itself, in place of what it said before."""
    values = {"at": now(), "fault": fault, "facts": facts or {}}
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    made = dialect.insert(REPORTS).values(name=name, **values)
    # One statement: of two workers that delete and insert, one would find the other's row and fail with all it did.
    connection.execute(made.on_conflict_do_update(index_elements=[REPORTS.c.name], set_=values))


def policy_facts(connection: Connection) -> PolicyFacts:
    """Return the facts of the policy in force.

    Raises:
        ApiRefusal: If it cannot act; no job is taken then.
    """
    row = connection.execute(select(REPORTS).where(REPORTS.c.name == POLICY)).one_or_none()
    if row is None or row.fault is not None:
        raise ApiRefusal(
            503,
            "the service takes no jobs: its policy cannot act; ask its operator to look at /readyz",
            code="policy_unavailable",
            headers={"Retry-After": "60"},
        )
    return PolicyFacts.model_validate(row.facts)


def policy_reads(connection: Connection) -> list[str]:
    """Return what the policy names on the disk, as far as it could be read last."""
    row = connection.execute(select(REPORTS).where(REPORTS.c.name == POLICY)).one_or_none()
    return [] if row is None else list(row.facts.get("reads", ()))
