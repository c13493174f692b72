"""The successor of a rotated key, and an index that finds the audit events of a subject."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_key_successors"
down_revision = "20261127_run_steps"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and create the index."""
    op.add_column("api_keys", sa.Column("replaced_by", sa.String(32), nullable=True))
    op.create_index("ix_audit_events_subject", "audit_events", ["subject", "id"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_audit_events_subject", table_name="audit_events")
    op.drop_column("api_keys", "replaced_by")
