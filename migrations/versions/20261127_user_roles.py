"""Roles of users in single environments."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_user_roles"
down_revision = "20261127_outcomes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward.

    Safe beside processes of the previous release. A user without a role in all environments has
    the role "none", with which the previous release signs no user in.
    """
    op.create_table(
        "user_roles",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id"],
            ["environments.id"],
            name=op.f("fk_user_roles_environment_id_environments"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_user_roles_user_id_users")
        ),
        sa.PrimaryKeyConstraint("user_id", "environment_id", name=op.f("pk_user_roles")),
    )


def downgrade() -> None:
    """Drop the tables, with their data."""
    op.drop_table("user_roles")
