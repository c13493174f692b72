"""Calls by hour, consumer, key, pipeline and class of outcome."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_consumer_counts"
down_revision = "20261127_run_keys"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward. Safe beside processes of the previous release, which count nothing here."""
    op.create_table(
        "consumer_counts",
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("consumer_id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("pipeline", sa.String(length=80), nullable=False),
        sa.Column("outcome_class", sa.String(length=16), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "environment_id",
            "since",
            "consumer_id",
            "key_id",
            "pipeline",
            "outcome_class",
            name=op.f("pk_consumer_counts"),
        ),
    )
    op.create_index(
        "ix_consumer_counts_consumer",
        "consumer_counts",
        ["environment_id", "consumer_id", "since"],
    )


def downgrade() -> None:
    """Go back; the counts are lost."""
    op.drop_table("consumer_counts")
