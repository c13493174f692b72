"""Consumers' credentials with the names of consumers and environments, a page at a time."""

from __future__ import annotations

import sqlalchemy as sa

from penstock.db.paging import containing, rows_after
from penstock.db.rows import Col, joined
from penstock.db.tables import ConsumerRow, CredentialRow, EnvironmentRow


class NamedCredentialRow(CredentialRow):
    """A credential with the names of its consumer and its environment."""

    consumer: Col[str] = joined(ConsumerRow.name)
    environment: Col[str] = joined(EnvironmentRow.name)


def list_credentials(
    connection: sa.Connection,
    environment_id: int | None,
    consumer_id: int | None,
    *,
    search: str = "",
    after: str | None = None,
    limit: int | None = None,
) -> list[NamedCredentialRow]:
    """Return credentials, oldest first; None stands for all environments or all consumers.

    `search` is a text in the consumer's name, or in the kind, name or note of the credential. A
    page begins after the credential of an id.
    """
    order = (CredentialRow.created_at, CredentialRow.id)
    query = (
        NamedCredentialRow.select()
        .join(ConsumerRow.table, ConsumerRow.id == CredentialRow.consumer_id)
        .join(EnvironmentRow.table, EnvironmentRow.id == CredentialRow.environment_id)
        .order_by(*order)
        .limit(limit)
    )
    if environment_id is not None:
        query = query.where(CredentialRow.environment_id == environment_id)
    if consumer_id is not None:
        query = query.where(CredentialRow.consumer_id == consumer_id)
    if search:
        columns = (ConsumerRow.name, CredentialRow.kind, CredentialRow.name, CredentialRow.note)
        query = query.where(containing(search, *columns))
    if after is not None:
        source = CredentialRow.table
        query = query.where(rows_after(connection, source, CredentialRow.id, after, order))
    return NamedCredentialRow.fetch(connection, query)
