"""Why runs failed, whose runs a worker performs, and whose end was counted against a run."""

import sqlalchemy as sa
from alembic import op

revision = "20261126_run_failures"
down_revision = "20261125_takeovers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward; safe beside processes of the previous release."""
    op.add_column("run_details", sa.Column("failure", sa.LargeBinary(), nullable=True))
    op.add_column("durable_runs", sa.Column("taken_from", sa.String(length=36), nullable=True))
    op.add_column("processes", sa.Column("pipelines", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    """Drop the columns, with their data."""
    op.drop_column("processes", "pipelines")
    op.drop_column("durable_runs", "taken_from")
    op.drop_column("run_details", "failure")
