"""The tables; `migrations` brings a database to them, and a test holds the two together."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# Names by rule, or a later migration could not name what it changes.
METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up by itself in INTEGER columns alone
_TIME = BigInteger  # seconds since 1970, as the contract has them


def _numbered(name: str, *columns: Column[object] | UniqueConstraint | Index) -> Table:
    """Return a table whose rows are numbered in the order in which they were made, for lists."""
    # Numbers are never given again, not even after the newest row is deleted, or a cursor could point at another row.
    seq = Column("seq", _NUMBER, primary_key=True, autoincrement=True)
    return Table(name, METADATA, seq, *columns, sqlite_autoincrement=True)


def _project() -> Column[object]:
    return Column("project_id", String(40), ForeignKey("projects.id"), nullable=False, index=True)


PROJECTS = Table(
    "projects",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("created_at", _TIME, nullable=False),
)

KEYS = Table(
    "keys",
    METADATA,
    Column("id", String(40), primary_key=True),
    _project(),
    Column("name", String(64), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("role", String(8), nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("revoked_at", _TIME),
)

PAGE_SESSIONS = Table(
    "page_sessions",
    METADATA,
    Column("sha256", String(64), primary_key=True),
    Column("key_id", String(40), ForeignKey("keys.id"), nullable=False),
    Column("expires_at", _TIME, nullable=False),
)

FILES = _numbered(
    "files",
    Column("id", String(40), nullable=False, unique=True),
    _project(),
    Column("purpose", String(32), nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("status_details", Text),
    Column("row_errors", JSON),
    Column("created_at", _TIME, nullable=False),
    Column("expires_at", _TIME),
)

UPLOADS = _numbered(
    "uploads",
    Column("id", String(40), nullable=False, unique=True),
    _project(),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("expires_at", _TIME, nullable=False),
    Column("file_seconds", BigInteger),
    Column("file_id", String(40)),
)

PARTS = _numbered(
    "parts",
    Column("id", String(40), nullable=False, unique=True),
    Column("upload_id", String(40), ForeignKey("uploads.id"), nullable=False, index=True),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", _TIME, nullable=False),
)

JOBS = _numbered(
    "jobs",
    Column("id", String(40), nullable=False, unique=True),
    _project(),
    Column("model", Text, nullable=False),
    Column("training_file", String(40), nullable=False),
    Column("training_sha256", String(64), nullable=False),
    Column("validation_file", String(40)),
    Column("validation_sha256", String(64)),
    Column("method", JSON, nullable=False),
    Column("suffix", String(64)),
    Column("seed", BigInteger, nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("error", JSON),
    Column("fine_tuned_model", Text),
    Column("trained_tokens", BigInteger),
    Column("result_files", JSON, nullable=False),
    Column("decision", JSON),
    Column("created_at", _TIME, nullable=False),
    Column("started_at", _TIME),
    Column("finished_at", _TIME),
    Column("steps_done", Integer, nullable=False, default=0),
    Column("steps_total", Integer, nullable=False, default=0),
    # A repeated create is found by its key, or by what it asks for.
    Column("idempotency_key", String(255)),
    Column("body_sha256", String(64), nullable=False),
    # The lease: who runs the job, a number that only grows with every change of hands, and the signs of life.
    Column("worker", String(64)),
    Column("fence", Integer, nullable=False, default=0),
    Column("beat", Integer, nullable=False, default=0),
    Column("attempts", Integer, nullable=False, default=0),
    UniqueConstraint("project_id", "idempotency_key"),
    Index("ix_jobs_project_id_body_sha256", "project_id", "body_sha256"),
    Index("ix_jobs_project_id_state", "project_id", "state"),
)

JOB_METADATA = Table(
    "job_metadata",
    METADATA,
    Column("job_id", String(40), ForeignKey("jobs.id"), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("value", String(512), nullable=False),
)

EVENTS = _numbered(
    "events",
    Column("id", String(40), nullable=False, unique=True),
    Column("job_id", String(40), ForeignKey("jobs.id"), nullable=False, index=True),
    Column("created_at", _TIME, nullable=False),
    Column("level", String(8), nullable=False),
    Column("type", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
)

MODELS = _numbered(
    "models",
    Column("id", String(255), nullable=False, unique=True),
    _project(),
    Column("job_id", String(40), ForeignKey("jobs.id"), nullable=False, unique=True),
    Column("checkpoint_id", String(40), nullable=False, unique=True),
    Column("step", Integer, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("files", JSON, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("deleted_at", _TIME),
)

PERMISSIONS = _numbered(
    "permissions",
    Column("id", String(40), nullable=False, unique=True),
    Column("model_id", String(255), ForeignKey("models.id"), nullable=False),
    _project(),
    Column("created_at", _TIME, nullable=False),
    UniqueConstraint("model_id", "project_id"),
)

AUDIT = Table(
    "audit",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("hash", String(64), nullable=False),
)

AUDIT_HEAD = Table(
    "audit_head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)

WEBHOOKS = Table(
    "webhooks",
    METADATA,
    Column("id", String(40), primary_key=True),
    _project(),
    Column("url", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
)

DELIVERIES = _numbered(
    "deliveries",
    Column("id", String(40), nullable=False, unique=True),
    Column("webhook_id", String(40), ForeignKey("webhooks.id"), nullable=False),
    Column("body", Text, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_at", _TIME, nullable=False, index=True),
    Column("delivered_at", _TIME),
    Column("failed_at", _TIME),
)

REPORTS = Table(
    "reports",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("at", _TIME, nullable=False),
    Column("fault", Text),
    Column("facts", JSON, nullable=False),
)
"""What each part of the service last said of itself: workers, and the policy with its judges."""
