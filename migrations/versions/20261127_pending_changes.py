"""Second approval: the setting of an environment, and changes that wait for it."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_pending_changes"
down_revision = "20261127_user_roles"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward.

    Safe beside processes of the previous release, which read neither. Their console and commands
    ask for no second approval: set it when no process of that release is left.
    """
    op.add_column(
        "environments",
        sa.Column("second_approval", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.create_table(
        "pending_changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("basis", sa.String(length=64), nullable=False),
        sa.Column("author", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("decided_by", sa.String(length=255), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["environment_id"],
            ["environments.id"],
            name=op.f("fk_pending_changes_environment_id_environments"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pending_changes")),
    )
    op.create_index(
        op.f("ix_pending_changes_environment_id"), "pending_changes", ["environment_id"]
    )


def downgrade() -> None:
    """Drop the tables and the columns, with their data."""
    op.drop_table("pending_changes")
    op.drop_column("environments", "second_approval")
