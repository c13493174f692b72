"""Totals of counts by hour and by day, and indexes that find slow runs, errors and audit events."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_totals"
down_revision = "20261127_alerts"
branch_labels = None
depends_on = None

HAS_ERROR, IS_SLOW = sa.text("error_type IS NOT NULL"), sa.text("micros >= 1000000")


def upgrade() -> None:
    """Create both tables; processes compute the totals of all days that have counts.

    Safe beside processes of the previous release: their counts are added up like all others.
    """
    op.create_table(
        "call_totals",
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("span", sa.Integer(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("pipeline", sa.String(length=80), nullable=False),
        sa.Column("outcome", sa.String(length=64), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("micros", sa.BigInteger(), nullable=False),
        sa.Column("buckets", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint(
            "environment_id", "span", "since", "pipeline", "outcome", name=op.f("pk_call_totals")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "consumer_totals",
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("consumer_id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("pipeline", sa.String(length=80), nullable=False),
        sa.Column("outcome_class", sa.String(length=16), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "environment_id",
            "since",
            "consumer_id",
            "key_id",
            "pipeline",
            "outcome_class",
            name=op.f("pk_consumer_totals"),
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_consumer_totals_consumer",
        "consumer_totals",
        ["environment_id", "consumer_id", "since"],
    )
    op.create_index(
        "ix_runs_error_type",
        "runs",
        ["environment_id", "error_type", "id"],
        sqlite_where=HAS_ERROR,
        postgresql_where=HAS_ERROR,
    )
    op.create_index(
        "ix_runs_slow",
        "runs",
        ["environment_id", "id", "micros"],
        sqlite_where=IS_SLOW,
        postgresql_where=IS_SLOW,
    )
    op.create_index("ix_audit_events_actor", "audit_events", ["actor", "id"])
    op.create_index("ix_audit_events_action", "audit_events", ["action", "id"])


def downgrade() -> None:
    """Drop the tables and the indexes."""
    op.drop_index("ix_audit_events_action", table_name="audit_events")
    op.drop_index("ix_audit_events_actor", table_name="audit_events")
    op.drop_index("ix_runs_slow", table_name="runs")
    op.drop_index("ix_runs_error_type", table_name="runs")
    op.drop_table("consumer_totals")
    op.drop_table("call_totals")
