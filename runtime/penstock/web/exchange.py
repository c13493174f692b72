"""One call on its way.

What is known of it so far, from the moment it is found until its record is handed over.
"""

from __future__ import annotations

import time
from typing import Any

from penstock.access.replay_guard import MessageClaim
from penstock.contracts.call import Call
from penstock.contracts.masks import masked
from penstock.endpoints.endpoint import Endpoint
from penstock.endpoints.router import Place
from penstock.errors import Refusal
from penstock.runs.ids import REQUEST_ID, new_run_id
from penstock.runs.steps import Inline

Environ = dict[str, Any]


class Exchange:
    """What a call has met.

    `run` is its run's id, `request_id` what the caller calls it; `running` is there once its
    handler may begin.

    `claims` are those of the messages of a call that count once.
    """

    __slots__ = (
        "began",
        "call",
        "claims",
        "consumer_id",
        "deadline",
        "endpoint",
        "environ",
        "method",
        "place",
        "rates",
        "recorded",
        "refusal",
        "request_id",
        "run",
        "running",
        "values",
    )

    def __init__(self, environ: Environ, place: Place, values: list[str]) -> None:
        self.began = time.perf_counter()
        self.environ = environ
        self.place = place
        self.values = values  # of the path's parameters
        self.method: str = environ["REQUEST_METHOD"]
        self.run = new_run_id()
        sent = environ.get("HTTP_X_REQUEST_ID")
        self.request_id = (
            sent if sent and REQUEST_ID.fullmatch(sent) and masked(sent) == sent else None
        )
        self.endpoint: Endpoint | None = None
        self.call: Call | None = None
        self.consumer_id: int | None = None
        self.running: Inline | None = None
        # A `time.monotonic()` reading, once its pipeline is known to be served.
        self.deadline: float | None = None
        self.claims: tuple[MessageClaim, ...] = ()
        self.rates: list[tuple[str, str]] = []
        self.recorded = False
        # What the caller was answered while the handler was still busy.
        self.refusal: Refusal | None = None

    @property
    def repeats(self) -> bool:
        """Whether it is a copy of a call that counts once, with that one's Idempotency-Key.

        It may have the stored reply alone.
        """
        return not all(claim.owned for claim in self.claims)

    @property
    def seconds(self) -> float:
        """The time since it was found."""
        return time.perf_counter() - self.began


def reason_of(refusal: Refusal) -> str | None:
    """Return why a credential was refused, for the log and the record; the caller is not told."""
    return (
        str(refusal.__cause__)
        if refusal.__cause__ is not None and refusal.status in {401, 403}
        else None
    )
