"""An index by which a project's unfinished jobs are counted, however many have ended."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NAME = "ix_jobs_project_id_state"


def upgrade() -> None:
    """Make the index."""
    op.create_index(_NAME, "jobs", ["project_id", "state"])


def downgrade() -> None:
    """Drop the index."""
    op.drop_index(_NAME, table_name="jobs")
