"""Send messages that are due: each by one process, again after a pause where an attempt fails."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from penstock import clock
from penstock.access.callbacks import WEBHOOK_PREFIX, CallbackTarget
from penstock.access.encryption import SecretBox
from penstock.alerts import mail
from penstock.contracts.sanitize import as_json
from penstock.db import alerts as stored
from penstock.db.alert_tables import AlertMessageRow, AlertRuleRow
from penstock.db.engine import Engine, reading
from penstock.db.unit_of_work import RowReader, Values
from penstock.durable import callbacks
from penstock.errors import PenstockError
from penstock.settings import Settings

AT_A_TIME = 20  # messages of one round
MAX_AGE = timedelta(days=3)  # of a message that was not sent
KEPT = timedelta(days=30)  # that a message is listed


def channels_of(settings: Settings) -> tuple[str, ...]:
    """Return the channels that this process can send on: e-mail needs a mail server."""
    return ("webhook", "email") if settings.smtp_host else ("webhook",)


def deliver_due(
    engine: Engine, box: SecretBox, settings: Settings, ids: Sequence[str] | None = None
) -> int:
    """Make one attempt of each message that is due, and return their number.

    With `ids` of those alone. Raises DatabaseUnavailable.
    """
    with reading(engine) as connection:
        messages = stored.due(connection, clock.utc_now(), channels_of(settings), limit=AT_A_TIME)
    attempts = 0
    for message in messages:
        if ids is not None and message.id not in ids:
            continue
        if stored.claim(engine, message, clock.utc_now()):
            attempts += 1
            _attempt(engine, box, settings, message)
    return attempts


def forget(engine: Engine, now: datetime) -> None:
    """Give up messages that no process sent for three days, and delete old ones."""
    stored.give_up(engine, now, now - MAX_AGE, "given up: not sent within 3 days")
    stored.purge(engine, now - KEPT)


def _attempt(engine: Engine, box: SecretBox, settings: Settings, message: AlertMessageRow) -> None:
    """Send a message once, and write the result or when to try again."""
    attempt, reason, final = message.attempt + 1, "", False
    try:
        result = _send(engine, box, settings, message)
    except (callbacks.Undeliverable, mail.Undelivered) as error:
        reason, final = str(error), error.final
    except PenstockError as error:  # a secret that can't be decrypted with the keys of this process
        reason = str(error)
    except Exception as error:  # noqa: BLE001  one message must not stop the others
        reason = type(error).__name__
    else:
        _end(engine, message, "sent", f"attempt {attempt}: {result}")
        return
    if final or attempt > len(callbacks.PAUSES_S):
        _end(engine, message, "failed", f"given up at attempt {attempt}: {reason}")
        structlog.get_logger("penstock.alerts").error(
            "alert message given up", message=message.id, target=message.target, reason=reason
        )
        return
    due_at = clock.utc_now() + timedelta(seconds=callbacks.PAUSES_S[attempt - 1])
    text = f"attempt {attempt}: {reason}"[:255]
    stored.settle(
        engine, message.id, {AlertMessageRow.due_at: due_at, AlertMessageRow.result: text}
    )


def _end(engine: Engine, message: AlertMessageRow, state: str, result: str) -> None:
    values: Values = {
        AlertMessageRow.state: state,
        AlertMessageRow.ended_at: clock.utc_now(),
        AlertMessageRow.result: result[:255],
    }
    stored.settle(engine, message.id, values)


def _send(engine: Engine, box: SecretBox, settings: Settings, message: AlertMessageRow) -> str:
    """Send a message and return the result. Raises Undeliverable and Undelivered."""
    with reading(engine) as connection:
        rule = RowReader(connection).find(AlertRuleRow, {AlertRuleRow.id: message.rule_id})
    if rule is None or not rule.active:
        raise mail.Undelivered("the rule was removed", final=True)
    if message.channel == "email":
        if message.target not in rule.emails:
            raise mail.Undelivered("the address was removed from the rule", final=True)
        letter = mail.letter(settings, message.id, message.target, message.payload)
        return mail.send(settings, letter)
    if not rule.sealed or rule.webhook != message.target:
        raise mail.Undelivered("the webhook of the rule was replaced", final=True)
    document = json.loads(box.decrypt(rule.sealed))
    secret = base64.b64decode(document["secret"].removeprefix(WEBHOOK_PREFIX))
    target = CallbackTarget(document["url"], rule.private, secret)
    status = callbacks.deliver(document["url"], target, message.id, as_json(message.payload))
    return f"delivered ({status})"
