"""The body of a request: strict framing, limits, and no reading before it is complete."""

# ruff: noqa: SLF001  the file of a body is private

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.http.body_protocol import BodyFault, BodyNotReceived
from penstock.server.body import (
    MAX_EXTENSIONS,
    MAX_MEMORY_BYTES,
    MAX_SIZE_LINE,
    MAX_TRAILERS,
    ChunkedFraming,
    LengthFraming,
    RequestBody,
)

NEXT = b"GET /next HTTP/1.1\r\n"


def check_trailers(section: bytes) -> None:
    if b"Content-Length" in section:
        raise ValueError("forbidden")


def chunked_body() -> RequestBody:
    return RequestBody(ChunkedFraming(check_trailers))


def feed_in_pieces(body: RequestBody, data: bytes, size: int) -> bytes:
    """Feed a body piece by piece, and return the bytes behind it."""
    rest = b""
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        rest += piece if body.ended else body.feed(piece)
    return rest


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("framed", "content"),
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"003\r\nabc\r\nA\r\n0123456789\r\n00\r\n\r\n", b"abc0123456789"),
        (b"a;x=y\r\n0123456789\r\n0;last\r\n\r\n", b"0123456789"),
        (b'2 ;x="a b"\r\nhi\r\n0\r\nX: y\r\nZ: w\r\n\r\n', b"hi"),
        (b"2\t;\x80\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
    ],
)
def test_chunks_are_joined_regardless_of_how_they_arrive(
    framed: bytes, content: bytes, size: int
) -> None:
    body = chunked_body()

    rest = feed_in_pieces(body, framed + NEXT, size)

    assert (body.complete, body.fault, body.read(), rest) == (True, None, content, NEXT)


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    "framed",
    [
        b"2;\nxx\r\n4c\r\n0\r\n\r\n",  # a parser that ends the line at LF reads another body
        b"3;a\0b\r\nabc\r\n0\r\n\r\n",
        b"3;a\x7fb\r\nabc\r\n0\r\n\r\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0;\n\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"\r\n3\r\nabc\r\n0\r\n\r\n",
        b";x\r\nabc\r\n0\r\n\r\n",
        b"zz\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"1_0\r\n",
        b"\xb2\r\nab\r\n0\r\n\r\n",
        b"f" * 17 + b"\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nabc\n\n0\r\n\r\n",
        b"3\r\nab\r\n0\r\n\r\n",
        b"0\r\nContent-Length: 3\r\n\r\n",
    ],
)
def test_invalid_framing_is_malformed_and_ends_the_stream(framed: bytes, size: int) -> None:
    body = chunked_body()

    rest = feed_in_pieces(body, framed + NEXT, size)

    assert (body.complete, body.fault, rest) == (False, BodyFault.MALFORMED, b"")
    with pytest.raises(OSError, match="malformed"):
        body.read()


@pytest.mark.parametrize(
    "endless",
    [
        b"1" + b";" + b"x" * MAX_SIZE_LINE,
        (b"1;" + b"x" * 1000 + b"\r\na\r\n") * (MAX_EXTENSIONS // 1000 + 1),
        b"0\r\n" + b"X: y\r\n" * (MAX_TRAILERS // 6 + 2),
        b"0" * 100,
    ],
    ids=["a line", "extensions", "trailers", "digits"],
)
def test_bytes_that_are_no_content_are_limited(endless: bytes) -> None:
    body = chunked_body()

    feed_in_pieces(body, endless, 500)

    assert body.fault is BodyFault.MALFORMED
    assert body._file is None


@given(
    st.lists(st.binary(min_size=1, max_size=50), max_size=8),
    st.lists(st.integers(0, 600), max_size=6),
    st.binary(max_size=20),
)
def test_chunks_of_any_size_cut_anywhere_give_the_content(
    chunks: list[bytes], cuts: list[int], after: bytes
) -> None:
    wire = (
        b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n" + after
    )
    body, rest = chunked_body(), b""
    places = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]

    for begin, end in itertools.pairwise(places):
        rest += wire[begin:end] if body.ended else body.feed(wire[begin:end])

    assert (body.read(), rest) == (b"".join(chunks), after)


def test_a_body_can_be_read_only_when_it_is_complete() -> None:
    body = RequestBody(LengthFraming(6))
    body.feed(b"ab\n")

    with pytest.raises(BodyNotReceived):
        body.read()
    rest = body.feed(b"cd\nGET")

    assert (rest, body.left) == (b"GET", 0)
    assert (body.readline(), body.read(1), list(body), body.read()) == (
        b"ab\n",
        b"c",
        [b"d\n"],
        b"",
    )


def test_a_request_without_a_body_has_an_empty_body() -> None:
    body, rest = RequestBody.of(SimpleNamespace(length=0, chunked=False), NEXT)

    assert (body.complete, body.read(), body.readlines(), rest) == (True, b"", [], NEXT)


@pytest.mark.parametrize("received", [b"abc", b"abcGET"])
def test_a_body_received_with_its_head_is_complete_at_once(received: bytes) -> None:
    body, rest = RequestBody.of(SimpleNamespace(length=3, chunked=False), received)

    assert (body.complete, body.size, body.read(), rest) == (True, 3, b"abc", received[3:])


@pytest.mark.parametrize(
    "framing", [LengthFraming(10), ChunkedFraming(check_trailers)], ids=["length", "chunks"]
)
def test_a_body_that_is_too_large_is_not_stored(framing: Any) -> None:
    body = RequestBody(framing)
    body.set_limit(4)

    rest = body.feed(b"0123456789GET" if framing.left else b"a\r\n0123456789\r\n0\r\n\r\nGET")

    assert (body.fault, body.complete, body.ended, rest) == (
        BodyFault.TOO_LARGE,
        False,
        True,
        b"GET",
    )
    assert body._file is None


def test_a_large_body_is_written_to_disk() -> None:
    body = RequestBody(LengthFraming(2 * MAX_MEMORY_BYTES))

    for _ in range(4):
        body.feed(b"x" * (MAX_MEMORY_BYTES // 2))

    assert body._file is not None
    assert body._file.fileno() > 0
    assert body.read() == b"x" * 2 * MAX_MEMORY_BYTES
    body.close()


def test_a_discarded_body_ends_at_its_announced_length() -> None:
    body = RequestBody(LengthFraming(6))
    body.feed(b"abc")
    body.discard()

    rest = body.feed(b"defGET")

    assert (body.ended, body.complete, rest) == (True, False, b"GET")
