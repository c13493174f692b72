"""Find what a text names: runs, rejected calls, keys, consumers, pipelines and revoked tokens."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from penstock.access.api_keys import listed_key
from penstock.contracts.keys import parse_api_key
from penstock.db import api_keys, consumers, rejected_calls, runs
from penstock.db.api_keys import KeyFilter
from penstock.db.engine import Engine, reading
from penstock.db.rejected_calls import RejectedFilter
from penstock.db.runs import RunFilter
from penstock.db.tables import ConsumerRow, EnvironmentRow, RevocationRow
from penstock.db.unit_of_work import RowReader
from penstock.runs.ids import REQUEST_ID, is_run_id, millis_of

DEFAULT_HITS, MAX_HITS = 10, 100  # of a kind
MAX_TEXT_LENGTH = 255
MIN_PREFIX_DIGITS = 8  # of an id: it begins with its time, and eight digits span 65 s
WHOLE_KEY = re.compile(r"pk_[a-z][a-z0-9-]{0,30}_[0-9A-Za-z]{8,}", re.ASCII)
SHOWN_KEY = re.compile(r"(?:pk_[a-z0-9-]+_)?(?:…|\.\.\.)([0-9A-Za-z]{4})", re.ASCII)
KEY_END = re.compile(r"[0-9A-Za-z]{4}", re.ASCII)
HEXADECIMAL = re.compile(r"[0-9a-f]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Hit:
    """A thing that a search finds.

    `kind` is run, rejected call, key, consumer, pipeline or revoked token. `id` names the thing in
    its commands; `name` is for people. `environment` is None for one of all environments.
    """

    kind: str
    id: str
    name: str
    environment: str | None = None
    consumer: str | None = None
    state: str | None = None
    at: datetime | None = None


def is_secret(text: str) -> bool:
    """Return whether a text may be a whole API key, which is never shown, logged or in a URL."""
    return WHOLE_KEY.search(text) is not None


def search(
    engine: Engine,
    text: str,
    *,
    pipelines: Iterable[str] = (),
    environments: Collection[str] | None = None,
    limit: int = DEFAULT_HITS,
) -> list[Hit]:
    """Return what a text names, at most `limit` hits of a kind.

    A whole API key is found by its digest alone. Ids of runs and calls may be prefixes of eight
    digits or more; names of consumers and pipelines may be parts. `pipelines` are the ids to find.
    `environments` are those that the user may see; None: all.
    """
    text = text.strip()
    if not text or len(text) > MAX_TEXT_LENGTH or not text.isprintable():
        return []
    with reading(engine) as connection:
        searched = _Search.of(connection, environments, limit)
        if (whole := WHOLE_KEY.search(text)) is not None:
            key = parse_api_key(whole[0])
            return searched.keys(KeyFilter(digest=key.digest)) if key is not None else []
        return [
            *searched.calls(text),
            *searched.keys_named(text),
            *searched.consumers(text),
            *_pipelines(text, pipelines, limit),
            *searched.tokens(text),
        ]


def _pipelines(text: str, pipelines: Iterable[str], limit: int) -> list[Hit]:
    found = sorted(identifier for identifier in pipelines if text.lower() in identifier.lower())
    return [Hit("pipeline", identifier, identifier) for identifier in found[:limit]]


@dataclass(frozen=True, slots=True)
class _Search:
    """A search in the environments that a user may see, within a transaction."""

    connection: Any
    names: Mapping[int, str]
    # The environments that are searched one by one; one None: all in one query.
    places: tuple[int | None, ...]
    limit: int

    @classmethod
    def of(
        cls,
        connection: Any,  # noqa: ANN401  a connection of db
        environments: Collection[str] | None,
        limit: int,
    ) -> _Search:
        names = RowReader(connection).names_by_id(EnvironmentRow)
        if environments is None or set(names.values()) <= set(environments):
            return cls(connection, names, (None,), limit)
        places = tuple(number for number, name in names.items() if name in set(environments))
        return cls(connection, names, places, limit)

    def calls(self, text: str) -> list[Hit]:
        """Return runs and rejected calls by id, its first digits, or request id; newest first."""
        spans = list[dict[str, Any]]()
        if (span := id_span(text.lower())) is not None:
            spans.append({"since": span[0], "until": span[1]})
        if REQUEST_ID.fullmatch(text):
            spans.append({"request_id": text})
        found = dict[tuple[str, str], Hit]()
        for span_values in spans:
            for place in self.places:
                for hit in self._calls_in(place, span_values):
                    found[hit.kind, hit.id] = hit
        hits = sorted(found.values(), key=lambda hit: hit.id, reverse=True)
        kinds = ("run", "rejected call")
        return [
            hit for kind in kinds for hit in [one for one in hits if one.kind == kind][: self.limit]
        ]

    def _calls_in(self, place: int | None, values: Mapping[str, Any]) -> Iterator[Hit]:
        rows = runs.page(self.connection, RunFilter(place, **values), limit=self.limit)
        numbers = {row.consumer_id for row in rows if row.consumer_id is not None}
        names = consumers.names_of(self.connection, numbers)
        for row in rows:
            if (environment := self.names.get(row.environment_id)) is not None:
                consumer = names.get(row.consumer_id) if row.consumer_id is not None else None
                at = _at(row.id)
                yield Hit("run", row.id, row.pipeline, environment, consumer, row.status, at)
        rejected = rejected_calls.page(
            self.connection, RejectedFilter(place, **values), limit=self.limit
        )
        for call in rejected:
            yield Hit(
                "rejected call",
                call.id,
                call.pipeline,
                call.environment,
                call.consumer,
                call.problem,
                _at(call.id),
            )

    def keys_named(self, text: str) -> list[Hit]:
        """Return keys by their id or its first characters, or by their last four characters."""
        shown = SHOWN_KEY.fullmatch(text)
        hits = list[Hit]()
        if shown is not None or KEY_END.fullmatch(text):
            hits += self.keys(KeyFilter(last_four=shown[1] if shown else text))
        if text.startswith("key_"):
            hits += self.keys(KeyFilter(id_prefix=text))
        return hits[: self.limit]

    def keys(self, chosen: KeyFilter) -> list[Hit]:
        """Return the keys that a filter finds."""
        chosen = replace(chosen, environments=self._visible())
        rows = api_keys.list_keys(self.connection, chosen, limit=self.limit)
        return [
            Hit("key", key.id, key.shown_as, key.environment, key.consumer, key.state, at)
            for key, at in ((listed_key(row), row.created_at) for row in rows)
        ]

    def consumers(self, text: str) -> list[Hit]:
        """Return consumers by a part of their name; the one of exactly that name first."""
        rows = consumers.page(self.connection, find=text, limit=self.limit)
        exact = RowReader(self.connection).find(ConsumerRow, {ConsumerRow.name: text})
        ordered = [exact, *(row for row in rows if row.name != exact.name)] if exact else rows
        return [
            Hit(
                "consumer",
                row.name,
                row.name,
                consumer=row.name,
                state="active" if row.enabled else "disabled",
                at=row.created_at,
            )
            for row in ordered[: self.limit]
        ]

    def tokens(self, text: str) -> list[Hit]:
        """Return revoked tokens by their jti."""
        rows = RowReader(self.connection).all(RevocationRow, {RevocationRow.jti: text})
        visible = self._visible()
        return [
            Hit("revoked token", text, text, self.names[row.environment_id], state="revoked")
            for row in rows
            if visible is None or row.environment_id in visible
        ][: self.limit]

    def _visible(self) -> Collection[int] | None:
        return None if self.places == (None,) else [one for one in self.places if one is not None]


def id_span(text: str) -> tuple[str, str] | None:
    """Return the first id of a prefix and the one after its last; None if it is no prefix."""
    digits = text.replace("-", "")
    whole = is_run_id(text)
    if not whole and (
        not MIN_PREFIX_DIGITS <= len(digits) <= 32  # noqa: PLR2004  digits of an id
        or not HEXADECIMAL.fullmatch(digits)
        or ("-" in text and not _dashed(digits.ljust(32, "0")).startswith(text.rstrip("-")))
        or int(digits.ljust(32, "f"), 16) + 1 >= 1 << 128
    ):
        return None
    first, last = digits.ljust(32, "0"), int(digits.ljust(32, "f"), 16)
    return _dashed(first), _dashed(f"{last + 1:032x}")


def _dashed(digits: str) -> str:
    lengths = (0, 8, 12, 16, 20, 32)
    return "-".join(digits[start:end] for start, end in pairwise(lengths))


def _at(identifier: str) -> datetime:
    return datetime.fromtimestamp(millis_of(identifier) / 1000, UTC)
