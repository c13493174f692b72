"""What the call contract needs."""

import sqlalchemy as sa
from alembic import op

revision = "20261124_call_contract"
down_revision = "20261124_access_data"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward; safe beside processes of the previous release."""
    op.create_table(
        "kept_replies",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("body", sa.LargeBinary(length=32), nullable=False),
        sa.Column("claim", sa.String(length=32), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_kept_replies")),
    )
    op.create_index(
        op.f("ix_kept_replies_expires_at"), "kept_replies", ["expires_at"], unique=False
    )
    op.create_table(
        "address_rules",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("consumer_id", sa.Integer(), nullable=False),
        sa.Column("network", sa.String(length=49), nullable=False),
        sa.Column("allowed", sa.Boolean(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["consumer_id"], ["consumers.id"], name=op.f("fk_address_rules_consumer_id_consumers")
        ),
        sa.ForeignKeyConstraint(
            ["environment_id"],
            ["environments.id"],
            name=op.f("fk_address_rules_environment_id_environments"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_address_rules")),
        sa.UniqueConstraint(
            "environment_id",
            "consumer_id",
            "network",
            name=op.f("uq_address_rules_environment_id_consumer_id_network"),
        ),
    )
    op.create_index(op.f("ix_address_rules_revision"), "address_rules", ["revision"], unique=False)
    op.create_table(
        "credentials",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("consumer_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["consumer_id"], ["consumers.id"], name=op.f("fk_credentials_consumer_id_consumers")
        ),
        sa.ForeignKeyConstraint(
            ["environment_id"],
            ["environments.id"],
            name=op.f("fk_credentials_environment_id_environments"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credentials")),
    )
    op.create_index(op.f("ix_credentials_revision"), "credentials", ["revision"], unique=False)
    op.create_table(
        "issuers",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("audience", sa.String(length=255), nullable=False),
        sa.Column("jwks_url", sa.Text(), nullable=True),
        sa.Column("keys", sa.JSON(), nullable=True),
        sa.Column("consumer", sa.String(length=64), nullable=True),
        sa.Column("consumer_claim", sa.String(length=255), nullable=False),
        sa.Column("consumers", sa.JSON(), nullable=False),
        sa.Column("scope_claim", sa.String(length=255), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id"],
            ["environments.id"],
            name=op.f("fk_issuers_environment_id_environments"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_issuers")),
        sa.UniqueConstraint(
            "environment_id", "issuer", name=op.f("uq_issuers_environment_id_issuer")
        ),
    )
    op.create_index(op.f("ix_issuers_revision"), "issuers", ["revision"], unique=False)
    op.create_table(
        "limits",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("consumer_id", sa.Integer(), nullable=False),
        sa.Column("pipeline", sa.String(length=63), nullable=False),
        sa.Column("by", sa.String(length=16), nullable=False),
        sa.Column("seconds", sa.Integer(), nullable=False),
        sa.Column("rate", sa.String(length=32), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["consumer_id"], ["consumers.id"], name=op.f("fk_limits_consumer_id_consumers")
        ),
        sa.ForeignKeyConstraint(
            ["environment_id"],
            ["environments.id"],
            name=op.f("fk_limits_environment_id_environments"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_limits")),
        sa.UniqueConstraint(
            "environment_id",
            "consumer_id",
            "pipeline",
            "by",
            "seconds",
            name=op.f("uq_limits_environment_id_consumer_id_pipeline_by_seconds"),
        ),
    )
    op.create_index(op.f("ix_limits_revision"), "limits", ["revision"], unique=False)
    op.create_table(
        "pipeline_secrets",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pipelines", sa.JSON(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id"],
            ["environments.id"],
            name=op.f("fk_pipeline_secrets_environment_id_environments"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipeline_secrets")),
        sa.UniqueConstraint(
            "environment_id", "name", name=op.f("uq_pipeline_secrets_environment_id_name")
        ),
    )
    op.create_index(
        op.f("ix_pipeline_secrets_revision"), "pipeline_secrets", ["revision"], unique=False
    )
    op.create_table(
        "variables",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id"],
            ["environments.id"],
            name=op.f("fk_variables_environment_id_environments"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_variables")),
        sa.UniqueConstraint(
            "environment_id", "name", name=op.f("uq_variables_environment_id_name")
        ),
    )
    op.create_index(op.f("ix_variables_revision"), "variables", ["revision"], unique=False)
    op.add_column(
        "environments",
        sa.Column(
            "internal_policy", sa.String(length=64), server_default="api-key", nullable=False
        ),
    )
    op.add_column(
        "policy_versions",
        sa.Column("exposure", sa.String(length=16), server_default="external", nullable=False),
    )


def downgrade() -> None:
    """Drop the tables and the columns, with their data."""
    op.drop_column("policy_versions", "exposure")
    op.drop_column("environments", "internal_policy")
    op.drop_table("variables")
    op.drop_table("pipeline_secrets")
    op.drop_table("limits")
    op.drop_table("issuers")
    op.drop_table("credentials")
    op.drop_table("address_rules")
    op.drop_table("kept_replies")
