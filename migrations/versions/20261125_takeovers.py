"""How many steps a durable run had done when it was last taken over."""

import sqlalchemy as sa
from alembic import op

revision = "20261125_takeovers"
down_revision = "20261125_console"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward; safe beside processes of the previous release."""
    op.add_column(
        "durable_runs", sa.Column("steps_seen", sa.Integer(), nullable=False, server_default="0")
    )


def downgrade() -> None:
    """Drop the columns, with their data."""
    op.drop_column("durable_runs", "steps_seen")
