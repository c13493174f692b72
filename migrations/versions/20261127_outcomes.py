"""Outcomes: a run whose handler answered 4xx is a client error; "refused" was also a rejected call."""

import time

import sqlalchemy as sa
from alembic import op

revision = "20261127_outcomes"
down_revision = "20261127_history"
branch_labels = None
depends_on = None

SETTLED_S = 300  # a process adds to the counts of a minute for no longer


def upgrade() -> None:
    """Rename stored outcomes, each table in one statement.

    Beside processes of the release before:

    - They may still write the former names. This release reads both as the present name
      (`penstock.db.columns.Outcome`), and adds minutes up under the present name.
    - They replace the counts of the minute that runs. Minutes that are not settled therefore keep
      their names here, else their calls would count twice.
    - They do not know the status `client_error`. Lists and pages of the release before show it
      as it is; its status API answers 500 for such a durable run until the process is replaced.
    """
    op.execute("UPDATE runs SET status = 'client_error' WHERE status = 'refused'")
    op.execute(
        "UPDATE refusals SET problem = 'address-not-allowed' WHERE problem = 'address-refused'"
    )
    op.execute(
        sa.text(
            "UPDATE call_counts SET outcome = CASE outcome WHEN 'refused' THEN 'client_error'"
            " ELSE 'address-not-allowed' END"
            " WHERE outcome IN ('refused', 'address-refused') AND (span > 60 OR since < :settled)"
        ).bindparams(settled=int(time.time()) - SETTLED_S)
    )


def downgrade() -> None:
    """Give stored outcomes their former names; counts that have both names keep them."""
    op.execute("UPDATE runs SET status = 'refused' WHERE status = 'client_error'")
    op.execute(
        "UPDATE refusals SET problem = 'address-refused' WHERE problem = 'address-not-allowed'"
    )
    for now, before in (("client_error", "refused"), ("address-not-allowed", "address-refused")):
        op.execute(
            sa.text(
                "UPDATE call_counts SET outcome = :before WHERE outcome = :now AND NOT EXISTS"
                " (SELECT 1 FROM call_counts AS former WHERE former.outcome = :before AND"
                " former.environment_id = call_counts.environment_id AND"
                " former.pipeline = call_counts.pipeline AND former.span = call_counts.span AND"
                " former.since = call_counts.since AND former.process = call_counts.process)"
            ).bindparams(now=now, before=before)
        )
