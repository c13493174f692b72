"""Where callbacks go, and how long their receivers may occupy a worker."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import nullcontext

import pytest

from penstock.access.callbacks import CallbackTarget
from penstock.durable import callbacks
from penstock.durable.intake import callback_id, engine_ids_of
from penstock.runs.ids import new_run_id

TARGET = CallbackTarget("https://erp.acme.example/hooks", private=False, secret=b"s")


@pytest.mark.parametrize(
    "path", ["/hooks", "/hooks/", "/hooks/7", "/hooks/a%20b/c.d?x=1&y=..%2f", "/hooks/..7"]
)
def test_a_url_below_the_prefix_is_taken(path: str) -> None:
    assert TARGET.matches(f"https://erp.acme.example{path}")


@pytest.mark.parametrize(
    "path",
    [
        "/hooks/../admin", "/hooks/%2e%2e/admin", "/hooks/.%2E/admin", "/hooks/..%2fadmin",
        "/hooks/x%2f..%2f..%2fadmin", "/hooks/..\\admin",
        "/hooks/%5c..%5cadmin", "/hooks/./x", "/hooks/%2e/x", "/hooks/a\0", "/hooks/a%00",
        "/hooks/a\x01", "/hooks/a\nb", "/hooks/a b", "/hooks/é",
        "/hooks?x=\0", "/hooksmore", "/",
    ],
)  # fmt: skip
def test_what_leads_out_of_it_or_is_no_url_is_not(path: str) -> None:
    assert not TARGET.matches(f"https://erp.acme.example{path}")


def test_a_slow_answer_is_cut_off_and_occupies_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callbacks, "ATTEMPT_TIMEOUT_S", 0.5)
    cut = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            try:
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.05)
            except OSError:
                cut.set()

    threading.Thread(target=drip, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with pytest.raises(callbacks.Undeliverable, match=r"no answer within 0\.5 seconds"):
        callbacks.deliver(url, CallbackTarget(url, private=True, secret=b"s"), "run", b"{}")

    assert cut.wait(20)
    listener.close()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.0.0.7",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fd00::1]",
        "[::]",
    ],
)
def test_nothing_is_sent_to_a_private_address_unless_that_is_allowed(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "httpx.Client.stream", lambda self, method, url, **more: asked.append(url) or nullcontext()
    )

    with pytest.raises(
        callbacks.Undeliverable, match="on a private network, which is not allowed"
    ) as refused:
        callbacks.deliver(
            f"https://{host}/hooks",
            CallbackTarget(f"https://{host}/hooks", private=False, secret=b"x"),
            "run",
            b"{}",
        )

    assert (refused.value.final, asked) == (True, [])


def test_what_is_no_url_is_undeliverable_for_good() -> None:
    with pytest.raises(callbacks.Undeliverable) as caught:
        callbacks.deliver(
            "http://127.0.0.1:1/\x01",
            CallbackTarget("http://127.0.0.1:1/", private=True, secret=b"s"),
            "run",
            b"{}",
        )

    assert caught.value.final


def test_what_is_sent_has_the_members_that_standard_webhooks_recommends() -> None:
    over = {
        "id": "r",
        "status": "timed_out",
        "accepted_at": "2026-01-02T03:04:05.000Z",
        "ended_at": "2026-01-02T03:04:06.000Z",
    }

    assert callbacks.event_of(over) == {
        "type": "run.timed_out",
        "timestamp": "2026-01-02T03:04:06.000Z",
        "data": over,
    }
    assert (
        callbacks.event_of({"status": "cancelled", "accepted_at": "2026-01-02T03:04:05.000Z"})[
            "timestamp"
        ]
        == "2026-01-02T03:04:05.000Z"
    )


def test_all_attempts_to_tell_an_end_are_forgotten_with_the_run() -> None:
    notified, silent = new_run_id(), new_run_id()

    held = engine_ids_of({notified: True, silent: False})

    assert held[:2] == [notified, silent]
    assert held[2:] == [
        callback_id(notified, attempt) for attempt in range(1, len(callbacks.PAUSES_S) + 2)
    ]
