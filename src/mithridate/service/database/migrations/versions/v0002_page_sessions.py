"""Sessions of people who sign in to the page."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "page_sessions",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_page_sessions_key_id")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_page_sessions")),
    )


def downgrade() -> None:
    """Drop the table; who was signed in signs in again."""
    op.drop_table("page_sessions")
