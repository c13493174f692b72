"""Running steps of durable runs, the first step of a re-run, and lines that a run did not keep."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_run_steps"
down_revision = "20261127_totals"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward. Safe beside processes of the previous release, which write none of them."""
    op.add_column("durable_runs", sa.Column("running_steps", sa.LargeBinary(), nullable=True))
    op.add_column("durable_runs", sa.Column("from_step", sa.Integer(), nullable=True))
    op.add_column("run_log_lines", sa.Column("left_out", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Go back."""
    op.drop_column("run_log_lines", "left_out")
    op.drop_column("durable_runs", "from_step")
    op.drop_column("durable_runs", "running_steps")
