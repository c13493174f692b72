"""No credential reaches the log, from any writer and in any text; other texts stay legible."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator

import pytest
import structlog

from penstock import logs
from penstock.contracts.masks import masked_text
from penstock.settings import Settings

SECRET = "hunter2Secretvalue"
HEADER, CLAIMS, SIGNATURE = (
    "eyJhbGciOiJFZERTQSIsImtpZCI6ImMxOSJ9",
    "eyJzdWIiOiJhbm4iLCJleHAiOjF9",
    "c2lnbmF0dXJlLW9mLWl0LWFsbA",
)
TOKEN = f"{HEADER}.{CLAIMS}.{SIGNATURE}"
TEXTS = [
    f"Authorization: Bearer {SECRET}",
    f"it sent Bearer {SECRET} to the upstream",
    f"it sent basic {SECRET}== to the upstream",
    f"'authorization': ['Bearer {SECRET}']",
    f"can't connect to postgresql://penstock:{SECRET}@db.internal/penstock",
    f"can't connect to redis://:{SECRET}@127.0.0.1:6379/0",
    f"create_engine('postgresql+psycopg://u:p@{SECRET}@h/d')",
    f"postgresql://u:p/{SECRET}@h/d",
    f"//u:{SECRET}@h/d",
    f"host=db user=u password={SECRET} dbname=x",
    f"password='two words {SECRET}'",
    json.dumps({"password": SECRET}),
    json.dumps(json.dumps({"password": SECRET})),
    f"password => '{SECRET}'",
    f"password := {SECRET}",
    f"GET /x?token={SECRET}&a=1",
    f"/x?back=%2Fa%3Ftoken%3D{SECRET}",
    f"Set-Cookie: session={SECRET}; HttpOnly",
    f'Set-Cookie: a="b"; session="{SECRET}"',
    f"Cookie: a=b; sid={SECRET}",
    f"[('Set-Cookie', 'session={SECRET}; Path=/')]",
    f'{{"cookie": "a={SECRET}"}}',
    f"X-API-Key: {SECRET}",
    f"[(b'X-API-Key', b'{SECRET}')]",
    f'["password", "{SECRET}"]',
    f"PENSTOCK_SECRET_KEY={SECRET}",
    f"AWS_SECRET_ACCESS_KEY={SECRET}",
    f"-----BEGIN PRIVATE KEY-----\nMC4{SECRET}\n-----END PRIVATE KEY-----",
    f"bad token {TOKEN}",
    f"bad token {HEADER}.\n{CLAIMS}.\r\n  {SIGNATURE}",
    f"bad token {HEADER}\n.{CLAIMS}\n.{SIGNATURE}",
    "bad token " + "\n".join(TOKEN[at : at + 32] for at in range(0, len(TOKEN), 32)),
]


def fail(kind: type[Exception], text: str) -> None:
    raise kind(text)


def of_plugin(text: str) -> None:
    try:
        fail(ValueError, text)
    except ValueError:
        logging.getLogger("my_plugin").exception("failed")


def of_ours(text: str) -> None:
    try:
        try:
            fail(KeyError, text)  # whose text is a repr
        except KeyError as error:
            raise ExceptionGroup("several", [RuntimeError("no"), ValueError(text)]) from error
    except ExceptionGroup:
        structlog.get_logger("penstock.calls").exception("failed")


def as_note(text: str) -> None:
    error = ValueError("no")
    error.add_note(text)
    structlog.get_logger("penstock").error("failed", exc_info=error)


def in_a_thread(text: str) -> None:
    thread = threading.Thread(target=fail, args=(ValueError, text))
    thread.start()
    thread.join()


WRITERS: list[Callable[[str], object]] = [
    of_plugin,
    of_ours,
    as_note,
    in_a_thread,
    lambda text: structlog.get_logger("penstock").error(text),
    lambda text: structlog.get_logger("penstock").error("failed", error=text),
    lambda text: logging.getLogger("my_plugin").error("the response was %s", text),
    lambda text: logging.getLogger("dbos").error(
        f"Exception in workflow: {text}", exc_info=ValueError(text)
    ),
]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("text", TEXTS)
def test_no_line_contains_the_credential(
    capsys: pytest.CaptureFixture[str], form: str, text: str
) -> None:
    logs.configure(Settings(log_format=form))
    for write in WRITERS:
        write(text)
        written = capsys.readouterr().err

        assert "***" in written
        assert not any(
            part in written for part in (SECRET, CLAIMS[:12], CLAIMS[-12:], SIGNATURE[:12])
        )


@pytest.mark.parametrize(
    "text",
    [
        "set api_key=True on its HttpTrigger, and jwt=True",
        "Policy jwt-api-key requires `api_key=True`; it is False",
        "it takes Bearer tokens, no basic authentication",
        "the database postgresql://penstock@db:5432/penstock can't be used",
        "see http://127.0.0.1:8000/a?mail=ann@example.org",
        "see http://[::1]:8000/a@b",
        "cookies: 2, and a cookie",
        "token = None, or password: null",
        "('total', 'sum') and a key: 7",
    ],
)
def test_a_text_without_a_credential_stays(text: str) -> None:
    assert masked_text(text, {"password"}) == text


def test_the_text_behind_a_token_stays() -> None:
    assert masked_text(f"bad token {TOKEN}\nTraceback of it") == "bad token ***\nTraceback of it"


@pytest.mark.parametrize(
    "part",
    [
        "eyJaaaaaaaaaa\n1",
        "//a:b@",
        "cookie: ",
        "token=",
        "Bearer ",
        "('token', ",
        "-----BEGIN PRIVATE KEY-----",
        "a-",
    ],
)
def test_no_text_takes_quadratic_time(part: str) -> None:
    text = part * (200_000 // len(part))

    # A search with backtracking would take longer than a test may.
    assert masked_text(text, {"password"})
