"""What runs need."""

import sqlalchemy as sa
from alembic import op

revision = "20261124_runs"
down_revision = "20261124_call_contract"
branch_labels = None
depends_on = None

RUN_ID = sa.LargeBinary(16).with_variant(sa.Uuid(as_uuid=False), "postgresql")


def upgrade() -> None:
    """Go forward; safe beside processes of the previous release."""
    op.create_table(
        "call_counts",
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("span", sa.Integer(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("pipeline", sa.String(length=80), nullable=False),
        sa.Column("outcome", sa.String(length=64), nullable=False),
        sa.Column("process", sa.String(length=36), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("micros", sa.BigInteger(), nullable=False),
        sa.Column("buckets", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint(
            "environment_id",
            "span",
            "since",
            "pipeline",
            "outcome",
            "process",
            name=op.f("pk_call_counts"),
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "durable_runs",
        sa.Column("run_id", RUN_ID, nullable=False),
        sa.Column("recoveries", sa.SmallInteger(), nullable=False),
        sa.Column("progress", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("cancelled_by", sa.String(length=255), nullable=True),
        sa.Column("callback_url", sa.Text(), nullable=True),
        sa.Column("callback_status", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_durable_runs")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "processes",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.Column("taken_by", sa.String(length=36), nullable=True),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_processes")),
    )
    op.create_table(
        "refusals",
        sa.Column("id", RUN_ID, nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("pipeline", sa.String(length=80), nullable=False),
        sa.Column("problem", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("consumer_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refusals")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_refusals_environment", "refusals", ["environment_id", "id"], unique=False)
    op.create_table(
        "run_details",
        sa.Column("run_id", RUN_ID, nullable=False),
        sa.Column("steps", sa.LargeBinary(), nullable=True),
        sa.Column("bodies", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_run_details")),
    )
    op.create_table(
        "runs",
        sa.Column("id", RUN_ID, nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("pipeline", sa.String(length=80), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("route", sa.String(length=255), nullable=False),
        sa.Column("durable", sa.Boolean(), nullable=False),
        sa.Column("consumer_id", sa.Integer(), nullable=True),
        sa.Column("subject", sa.String(length=255), nullable=True),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("http_status", sa.SmallInteger(), nullable=True),
        sa.Column("micros", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("parent", RUN_ID, nullable=True),
        sa.Column("redelivers", RUN_ID, nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_runs_consumer", "runs", ["environment_id", "consumer_id", "id"], unique=False
    )
    op.create_index("ix_runs_environment", "runs", ["environment_id", "id"], unique=False)
    op.create_index(
        "ix_runs_parent",
        "runs",
        ["parent"],
        unique=False,
        sqlite_where=sa.text("parent IS NOT NULL"),
        postgresql_where=sa.text("parent IS NOT NULL"),
    )
    op.create_index("ix_runs_pipeline", "runs", ["environment_id", "pipeline", "id"], unique=False)
    op.create_index(
        "ix_runs_request_id",
        "runs",
        ["request_id", "id"],
        unique=False,
        sqlite_where=sa.text("request_id IS NOT NULL"),
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_status",
        "runs",
        ["environment_id", "status", "id"],
        unique=False,
        sqlite_where=sa.text("status <> 'succeeded'"),
        postgresql_where=sa.text("status <> 'succeeded'"),
    )
    op.create_index(
        "ix_runs_waiting",
        "runs",
        ["environment_id", "pipeline", "status"],
        unique=False,
        sqlite_where=sa.text("status IN ('accepted', 'running')"),
        postgresql_where=sa.text("status IN ('accepted', 'running')"),
    )
    op.create_table(
        "callback_targets",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("consumer_id", sa.Integer(), nullable=False),
        sa.Column("prefix", sa.String(length=255), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["consumer_id"],
            ["consumers.id"],
            name=op.f("fk_callback_targets_consumer_id_consumers"),
        ),
        sa.ForeignKeyConstraint(
            ["environment_id"],
            ["environments.id"],
            name=op.f("fk_callback_targets_environment_id_environments"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callback_targets")),
        sa.UniqueConstraint(
            "environment_id",
            "consumer_id",
            "prefix",
            name=op.f("uq_callback_targets_environment_id_consumer_id_prefix"),
        ),
    )
    op.create_index(
        op.f("ix_callback_targets_revision"), "callback_targets", ["revision"], unique=False
    )
    op.create_table(
        "sensitive_fields",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("field", sa.String(length=255), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id"],
            ["environments.id"],
            name=op.f("fk_sensitive_fields_environment_id_environments"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sensitive_fields")),
        sa.UniqueConstraint(
            "environment_id", "field", name=op.f("uq_sensitive_fields_environment_id_field")
        ),
    )
    op.create_index(
        op.f("ix_sensitive_fields_revision"), "sensitive_fields", ["revision"], unique=False
    )
    op.add_column(
        "environments",
        sa.Column("run_retention", sa.Integer(), server_default="2592000", nullable=False),
    )
    op.add_column(
        "environments",
        sa.Column("record_bodies", sa.String(length=8), server_default="all", nullable=False),
    )


def downgrade() -> None:
    """Drop the tables and the columns, with their data."""
    op.drop_column("environments", "record_bodies")
    op.drop_column("environments", "run_retention")
    op.drop_table("sensitive_fields")
    op.drop_table("callback_targets")
    op.drop_table("runs")
    op.drop_table("run_details")
    op.drop_table("refusals")
    op.drop_table("processes")
    op.drop_table("durable_runs")
    op.drop_table("call_counts")
