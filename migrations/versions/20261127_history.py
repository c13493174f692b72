"""Marks of revisions: a database that was restored has another history than processes may know."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_history"
down_revision = "20261126_user_networks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward.

    Safe beside processes of the previous release, which write no marks and ask for none.
    """
    op.create_table(
        "history",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("mark", sa.LargeBinary(length=16), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_history")),
    )


def downgrade() -> None:
    """Drop the tables, with their data."""
    op.drop_table("history")
