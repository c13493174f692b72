"""The time limit of a call: the caller has its 504 while the handler is still busy, and never
two answers."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.place import Place, Server, dribble

Serve = Callable[..., Server]

PLUGIN = """
import time
from pathlib import Path
from penstock import Call, Cors, HttpTrigger, Pipeline, hookimpl

slow = Pipeline("slow", version="1.0.0", trigger=HttpTrigger(timeout=0.3, cors=Cors({"https://shop.example"})))
HERE = Path(__file__).parent

@slow.get("/quick")
def quick(call: Call): return {"run": call.run}

@slow.get("/stuck")
def stuck(call: Call):
    time.sleep(1.5)
    (HERE / "ended").touch()
    return {"run": call.run}

@slow.post("/unread")
def unread(call: Call):
    time.sleep(1)

@slow.post("/read")
def read(call: Call, body: bytes):
    (HERE / "whole").write_bytes(body)
    return {"bytes": len(body)}

narrow = Pipeline("narrow", version="1.0.0", trigger=HttpTrigger(timeout=0.3, in_flight=2))

@narrow.get("/{seconds}")
def wait(call: Call, seconds: float):
    time.sleep(seconds)

@slow.get("/close")
def close(call: Call):
    time.sleep(0.3)
    return {"run": call.run}

@slow.get("/reset")
def reset(call: Call):
    raise ConnectionResetError(104, "a partner of ours hung up")

@hookimpl
def penstock_pipelines(): return [slow, narrow]

@hookimpl
def penstock_call_finished(call, status, seconds):
    with (HERE / "finished").open("a") as file:
        file.write(f"{call.run} {status}\\n")
"""
AT_LIMIT = 504


# What stock gunicorn does not promise.
OURS = pytest.mark.parametrize("serve", ["penstock"], indirect=True)


@pytest.fixture(params=["penstock", "gthread"])
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(
            Server(*args, **more, PENSTOCK_WORKER_CLASS=request.param)
        )


@pytest.fixture
def open_place(sqlite_place: Place) -> Place:
    sqlite_place.policy("any")
    sqlite_place.plugin("slow", PLUGIN)
    return sqlite_place


def test_the_caller_is_answered_while_the_handler_is_still_busy(
    open_place: Place, serve: Serve
) -> None:
    server = serve(open_place)
    ended = open_place.folder / "plugins" / "ended"

    answered = server.call(
        "GET",
        "/v1/slow/stuck",
        headers={"X-Request-Id": "mine-to-tell", "Origin": "https://shop.example"},
    )
    busy = not ended.exists()

    assert busy
    assert answered.status_code == AT_LIMIT
    assert answered.headers["Content-Type"] == "application/problem+json"
    assert answered.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert answered.headers["Connection"] == "close"
    assert answered.headers["X-Request-Id"] == "mine-to-tell"
    run = answered.headers["X-Run-Id"]
    assert (answered.json()["type"], answered.json()["run"]) == ("timed-out", run)
    for _ in range(100):
        if ended.exists():
            break
        time.sleep(0.1)
    assert server.call("GET", "/v1/slow/quick").status_code == 200
    logged = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [
        line["status"] for line in logged if line.get("run") == run and line["event"] == "call"
    ] == [AT_LIMIT]
    assert (open_place.folder / "plugins" / "finished").read_text().splitlines()[
        0
    ] == f"{run} {AT_LIMIT}"


def test_a_connection_serves_quick_calls_before_one_that_is_late(
    open_place: Place, serve: Serve
) -> None:
    server = serve(open_place)

    statuses = [
        server.call("GET", f"/v1/slow/{path}").status_code
        for path in ("quick", "quick", "stuck", "quick")
    ]

    assert statuses == [200, 200, AT_LIMIT, 200]


def test_head_is_answered_without_a_body(open_place: Place, serve: Serve) -> None:
    server = serve(open_place)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"HEAD /v1/slow/stuck HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))

    assert received.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
    assert received.endswith(b"\r\n\r\n")


def test_a_body_that_is_not_read_does_not_lose_the_answer(open_place: Place, serve: Serve) -> None:
    server = serve(open_place)

    answered = [
        server.call("POST", "/v1/slow/unread", content=b"x" * 500_000).status_code for _ in range(5)
    ]

    assert answered == [AT_LIMIT] * 5


def test_a_body_that_does_not_come_ends_in_a_504_and_is_never_taken_for_whole(
    open_place: Place, serve: Serve, request: pytest.FixtureRequest
) -> None:
    server = serve(open_place)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/slow/read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
        )
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert server.call("GET", "/v1/slow/quick").status_code == 200

    assert received.startswith(b"HTTP/1.1 504")
    assert received.count(b"HTTP/1.1") == 1
    if "gthread" not in request.node.name:  # its sender failed, and not the pipeline
        assert b"The body did not arrive in the time that the pipeline has." in received
        assert (
            '"id"'
            not in open_place.run(
                "runs", "list", "--status", "timed_out", "--format", "json"
            ).stdout
        )
    assert not (open_place.folder / "plugins" / "whole").exists()


def test_callers_that_never_send_the_rest_of_a_body_hold_no_thread(
    open_place: Place, serve: Serve
) -> None:
    server = serve(open_place)
    with ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            for _ in range(20)
        ]
        for connection in held:  # more than the server has threads
            connection.sendall(
                b"POST /v1/slow/read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
            )

        answered = server.call("GET", "/v1/slow/quick").status_code

    assert answered == 200


def test_a_connection_that_ends_within_the_body_starts_no_handler(
    open_place: Place, serve: Serve
) -> None:
    server = serve(open_place)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/slow/read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
        )
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))

    assert received.startswith(b"HTTP/1.1 400")
    assert not (open_place.folder / "plugins" / "whole").exists()


def test_a_call_that_ends_at_its_limit_has_one_answer(open_place: Place, serve: Serve) -> None:
    server = serve(open_place)

    def call(number: int) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(
                b"GET /v1/slow/close HTTP/1.1\r\nHost: x\r\nX-Request-Id: run-%05d\r\nConnection:"
                b" close\r\n\r\n" % number
            )
            return b"".join(iter(lambda: connection.recv(65536), b""))

    with ThreadPoolExecutor(8) as pool:
        received = list(pool.map(call, range(160)))

    for number, text in enumerate(received):
        head, _, body = text.partition(b"\r\n\r\n")
        assert re.findall(rb"HTTP/1\.1 (\d+)", text) in ([b"200"], [b"504"]), text
        assert int(re.findall(rb"Content-Length: (\d+)", head)[0]) == len(body)
        assert b"X-Request-Id: run-%05d\r\n" % number in head


def test_a_handler_whose_own_partner_hangs_up_is_a_failed_pipeline(
    open_place: Place, serve: Serve
) -> None:
    server = serve(open_place)

    answered = server.call("GET", "/v1/slow/reset")

    assert (answered.status_code, answered.json()["type"]) == (500, "pipeline-failed")


def test_calls_past_those_in_flight_are_turned_away_and_what_is_stuck_counts(
    open_place: Place, serve: Serve
) -> None:
    server = serve(open_place)

    late = [server.call("GET", "/v1/narrow/2.5").status_code for _ in range(2)]
    busy = server.call("GET", "/v1/narrow/0")
    other = server.call("GET", "/v1/slow/quick").status_code
    time.sleep(2.5)
    after = [server.call("GET", "/v1/narrow/0").status_code for _ in range(5)]

    assert late == [AT_LIMIT] * 2
    assert (busy.status_code, busy.json()["type"], busy.headers["Retry-After"]) == (
        503,
        "pipeline-busy",
        "1",
    )
    assert other == 200
    assert after == [204] * 5


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(
            name,
            name,
            private.public_key(),
            x509.random_serial_number(),
            now - timedelta(hours=1),
            now + timedelta(hours=1),
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def over_tls(open_place: Place, serve: Serve) -> tuple[Server, ssl.SSLContext]:
    cert, key = certificate(open_place.folder)
    server = serve(open_place, wait=False, GUNICORN_CMD_ARGS=f"--certfile {cert} --keyfile {key}")
    trust = ssl.create_default_context(cafile=str(cert))
    for _ in range(100):
        try:
            httpx.get(f"https://localhost:{server.port}/-/health", verify=trust)
            break
        except httpx.TransportError:
            time.sleep(0.1)
    return server, trust


@OURS
def test_the_limit_holds_where_gunicorn_ends_tls_too(
    over_tls: tuple[Server, ssl.SSLContext],
) -> None:
    server, trust = over_tls
    with httpx.Client(
        base_url=f"https://localhost:{server.port}", verify=trust, timeout=20
    ) as client:
        stuck = client.get("/v1/slow/stuck")
        assert (stuck.status_code, stuck.headers["Connection"]) == (AT_LIMIT, "close")
        statuses = [
            client.get(f"/v1/slow/{path}").status_code for path in ("quick", "stuck", "quick")
        ]
        statuses += [
            client.get(f"/v1/narrow/{seconds}").status_code for seconds in ("1.5", "1.5", "0")
        ]
        statuses.append(client.post("/v1/slow/read", content=b"x" * 500_000).json()["bytes"])
        statuses.append(client.post("/v1/slow/unread", content=b"x" * 500_000).status_code)

    assert statuses == [200, AT_LIMIT, 200, AT_LIMIT, AT_LIMIT, 503, 500_000, AT_LIMIT]
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    "framing", ["Content-Length: 1000\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n400\r\nx"]
)
def test_senders_that_dribble_their_bodies_over_tls_hold_no_thread(
    over_tls: tuple[Server, ssl.SSLContext], framing: str
) -> None:
    server, trust = over_tls
    head = f"POST /v1/slow/read HTTP/1.1\r\nHost: x\r\n{framing}".encode()

    def send(_: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain,
            trust.wrap_socket(plain, server_hostname="localhost") as ours,
        ):
            return dribble(ours, head)

    with ThreadPoolExecutor(20) as pool:  # more than the server has threads
        received = list(pool.map(send, range(20)))

    assert {text.partition(b"\r\n")[0] for text in received} == {b"HTTP/1.1 504 Gateway Timeout"}
    assert all(b'"type":"timed-out"' in text for text in received)
    assert (
        httpx.get(
            f"https://localhost:{server.port}/v1/slow/quick", verify=trust, timeout=20
        ).status_code
        == 200
    )
    assert not (server.log.parent / "plugins" / "whole").exists()
    assert "Traceback" not in server.log.read_text()


def sends_on(connection: socket.socket) -> bool:
    """Send a byte ten times a second, and return whether that is possible after 15 s; what comes
    back is left lying."""
    for _ in range(150):
        try:
            connection.sendall(b"x")
        except OSError:
            return False
        time.sleep(0.1)
    return True


@OURS
def test_senders_that_dribble_their_heads_hold_no_thread(open_place: Place, serve: Serve) -> None:
    server = serve(open_place)

    def send(_: int) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            return dribble(connection, b"GET /v1/slow/quick HTTP/1.1\r\nX: ")

    with ThreadPoolExecutor(8) as pool:  # as many as the server has threads
        received = list(pool.map(send, range(8)))

    assert {text.partition(b"\r\n")[0] for text in received} == {b"HTTP/1.1 408 Request Timeout"}
    assert server.call("GET", "/v1/slow/quick").status_code == 200
    assert "Traceback" not in server.log.read_text()


@OURS
def test_senders_that_dribble_their_heads_over_tls_hold_no_thread(
    over_tls: tuple[Server, ssl.SSLContext],
) -> None:
    server, trust = over_tls

    def send(_: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain,
            trust.wrap_socket(plain, server_hostname="localhost") as ours,
        ):
            return dribble(ours, b"GET /v1/slow/quick HTTP/1.1\r\nX: ")

    with ThreadPoolExecutor(8) as pool:
        received = list(pool.map(send, range(8)))

    assert {text.partition(b"\r\n")[0] for text in received} == {b"HTTP/1.1 408 Request Timeout"}
    assert (
        httpx.get(
            f"https://localhost:{server.port}/v1/slow/quick", verify=trust, timeout=20
        ).status_code
        == 200
    )
    assert "Traceback" not in server.log.read_text()


@OURS
def test_senders_that_dribble_their_handshakes_hold_no_thread(
    over_tls: tuple[Server, ssl.SSLContext],
) -> None:
    server, trust = over_tls

    def send(_: int) -> bool:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
            plain.sendall(b"\x16\x03\x01\x02\x00")  # 512 bytes of a first record are to follow
            return sends_on(plain)

    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(send, range(8)))

    assert (
        httpx.get(
            f"https://localhost:{server.port}/v1/slow/quick", verify=trust, timeout=20
        ).status_code
        == 200
    )
    assert "Traceback" not in server.log.read_text()


@OURS
def test_senders_that_dribble_unwanted_bytes_hold_no_thread(
    open_place: Place, serve: Serve
) -> None:
    server = serve(open_place)

    def send(_: int) -> tuple[bytes, bool]:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(
                b"POST /v1/slow/nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
            )
            return connection.recv(12), sends_on(connection)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(8))) == {(b"HTTP/1.1 404", False)}

    assert server.call("GET", "/v1/slow/quick").status_code == 200
    assert "Traceback" not in server.log.read_text()
