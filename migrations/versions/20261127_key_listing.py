"""An index that lists API keys in order of creation, a page at a time."""

from alembic import op

revision = "20261127_key_listing"
down_revision = "20261127_pending_changes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index."""
    op.create_index("ix_api_keys_created_at", "api_keys", ["created_at", "id"])


def downgrade() -> None:
    """Drop the index."""
    op.drop_index("ix_api_keys_created_at", table_name="api_keys")
