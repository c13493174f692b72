"""The key that a run's caller used, and the type of the exception that ended it."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_run_keys"
down_revision = "20261127_rejected_calls"
branch_labels = None
depends_on = None

COLUMNS = {"key_id": sa.String(length=32), "error_type": sa.String(length=255)}


def upgrade() -> None:
    """Go forward. Safe beside processes of the previous release, which leave the columns empty."""
    for name, kind in COLUMNS.items():
        op.add_column("runs", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    """Go back; the added values are lost."""
    for name in reversed(COLUMNS):
        op.drop_column("runs", name)
