"""Lines that plugin code logs within a run."""

import sqlalchemy as sa
from alembic import op

from penstock.db.columns import RunId

revision = "20261127_run_log_lines"
down_revision = "20261127_paused_schedules"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward. Safe beside processes of the previous release, which keep no lines."""
    op.create_table(
        "run_log_lines",
        sa.Column("run_id", RunId, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("level", sa.String(length=8), nullable=False),
        sa.Column("logger", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "at", "number", name=op.f("pk_run_log_lines")),
    )


def downgrade() -> None:
    """Go back; the lines are lost."""
    op.drop_table("run_log_lines")
