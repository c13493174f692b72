"""Indexes that find rejected calls by request id, keys by their end and revoked tokens by jti."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_search"
down_revision = "20261127_run_log_lines"
branch_labels = None
depends_on = None

IS_SET = sa.text("request_id IS NOT NULL")


def upgrade() -> None:
    """Create the indexes."""
    op.create_index(
        "ix_refusals_request_id",
        "refusals",
        ["request_id", "id"],
        sqlite_where=IS_SET,
        postgresql_where=IS_SET,
    )
    op.create_index("ix_api_keys_last_four", "api_keys", ["last_four"])
    op.create_index("ix_revocations_jti", "revocations", ["jti"])


def downgrade() -> None:
    """Drop the indexes."""
    op.drop_index("ix_revocations_jti", table_name="revocations")
    op.drop_index("ix_api_keys_last_four", table_name="api_keys")
    op.drop_index("ix_refusals_request_id", table_name="refusals")
