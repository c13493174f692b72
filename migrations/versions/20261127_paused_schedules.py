"""Schedules that operators paused."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_paused_schedules"
down_revision = "20261127_consumer_counts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward.

    Safe beside processes of the previous release, which start the runs of paused schedules.
    """
    op.create_table(
        "paused_schedules",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("pipeline", sa.String(length=80), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("paused_by", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_paused_schedules")),
    )


def downgrade() -> None:
    """Go back: all schedules start runs again."""
    op.drop_table("paused_schedules")
