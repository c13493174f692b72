"""Networks from which each user of the console has signed in."""

import sqlalchemy as sa
from alembic import op

revision = "20261126_user_networks"
down_revision = "20261126_by_id"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward; safe beside processes of the previous release."""
    op.create_table(
        "user_networks",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("network", sa.String(length=64), nullable=False),
        sa.Column("signed_in_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_user_networks_user_id_users")
        ),
        sa.PrimaryKeyConstraint("user_id", "network", name=op.f("pk_user_networks")),
    )


def downgrade() -> None:
    """Drop the tables, with their data."""
    op.drop_table("user_networks")
