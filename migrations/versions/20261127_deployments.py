"""What processes report that they serve, and deployments."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_deployments"
down_revision = "20261127_key_listing"
branch_labels = None
depends_on = None

REPORTED = (
    ("report", sa.String(length=64)),
    ("code", sa.String(length=64)),
    ("deployment", sa.String(length=64)),
    ("revision", sa.BigInteger()),
    ("policy_version", sa.Integer()),
    ("started_by", sa.String(length=255)),
)


def upgrade() -> None:
    """Go forward. Safe beside processes of the previous release, which report nothing."""
    for name, kind in REPORTED:
        op.add_column("processes", sa.Column(name, kind, nullable=True))
    op.create_table(
        "process_reports",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_process_reports")),
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("loaded_at", sa.BigInteger(), nullable=False),
        sa.Column("started_by", sa.String(length=255), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("report", sa.String(length=64), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=True),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.Column("served", sa.Integer(), nullable=False),
        sa.Column("blocked", sa.Integer(), nullable=False),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
    )
    op.create_index("ix_deployments_at", "deployments", ["at", "id"])
    op.create_index("ix_deployments_environment", "deployments", ["environment_id", "at", "id"])
    op.create_index("ix_deployments_host", "deployments", ["environment_id", "host", "at", "id"])


def downgrade() -> None:
    """Go back: deployments and reports are lost."""
    op.drop_table("deployments")
    op.drop_table("process_reports")
    for name, _ in REPORTED:
        op.drop_column("processes", name)
