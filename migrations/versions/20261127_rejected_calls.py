"""Rejected calls: what was called, by which key, and what the reply contained."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_rejected_calls"
down_revision = "20261127_deployments"
branch_labels = None
depends_on = None

COLUMNS = {
    "http_status": sa.SmallInteger(),
    "method": sa.String(length=16),
    "path": sa.Text(),
    "route": sa.String(length=255),
    "detail": sa.Text(),
    "key_id": sa.String(length=32),
    "scopes": sa.Text(),
    "request_id": sa.String(length=128),
    "left_out": sa.Integer(),
}


def upgrade() -> None:
    """Go forward.

    Safe beside processes of the previous release, which leave the columns empty.
    """
    for name, kind in COLUMNS.items():
        op.add_column("refusals", sa.Column(name, kind, nullable=True))
    condition = sa.text("consumer_id IS NOT NULL")
    op.create_index(
        "ix_refusals_consumer",
        "refusals",
        ["environment_id", "consumer_id", "id"],
        sqlite_where=condition,
        postgresql_where=condition,
    )


def downgrade() -> None:
    """Go back; the added values are lost."""
    op.drop_index("ix_refusals_consumer", "refusals")
    for name in reversed(COLUMNS):
        op.drop_column("refusals", name)
