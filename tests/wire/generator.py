"""Generate connections from a seed: usual, unusual and malformed requests, pipelined, in pieces,
and cut off."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from random import Random

SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: sentinel\r\nConnection: close\r\n\r\n"

METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
ODD_METHODS = [
    "get",
    "Get",
    "G@T",
    "",
    "PROPFIND",
    "X" * 21,
    "GE",
    "CONNECT",
    "TRACE",
    "GET,POST",
    "GET\x00",
    "\xc3\xa9TE",
]
TARGETS = [
    "/",
    "/a",
    "/a/b?c=d&e=f",
    "/%41%2f%zz",
    "/?",
    "/a;b=c",
    "/a%20b",
    "/~x/.",
    "/" + "y" * 300,
]
ODD_TARGETS = [
    "",
    "*",
    "a",
    "//a/b",
    "/a#b",
    "http://abs.example/x?y",
    "https://abs.example",
    "http://",
    "x:80",
    "/a b",
    "/\x01",
    "/\x7f",
    "/\xe9",
    "/a\\b",
    "/../b",
    "/a?b?c#d",
    "/" + "z" * 5000,
    "/%",
    "/%00",
    "http://[::1]/a",
    "/a\tb",
]
VERSIONS = ["HTTP/1.1"]
ODD_VERSIONS = [
    "HTTP/1.0",
    "HTTP/0.9",
    "HTTP/2.0",
    "HTTP/1.2",
    "HTTP/1.10",
    "http/1.1",
    "HTTP/1",
    "HTTP/ 1.1",
    "",
    "HTTP/1.1 ",
    "HTTQ/1.1",
]
HOSTS = [
    "x",
    "api.example.com",
    "localhost:8000",
    "[::1]",
    "[::1]:80",
    "127.0.0.1",
    "a_b",
    "xn--bcher-kva.example:65535",
]
ODD_HOSTS = [
    "",
    "a b",
    "a,b",
    "a/b",
    "u@h",
    "[::1",
    "h:port",
    "h:99999",
    "a\tb",
    "<script>",
    "http://x",
    "a?b",
    "a#b",
    "h:",
    ":80",
    "a\x00b",
    "\xe9.example",
    "[::1]x",
    "%zz",
    "%41",
]
CONNECTIONS = ["close", "keep-alive", "Close", "KEEP-ALIVE"]
ODD_CONNECTIONS = [
    "foo, close",
    "keep-alive, close",
    "close ,",
    "close, keep-alive",
    "foo",
    "",
    ",",
    "upgrade",
    "TE, close",
    "clos",
    "close;x",
]
LENGTHS = [
    "-1",
    "+3",
    "0x3",
    "3,3",
    "3, 3",
    " 3",
    "3 ",
    "\xb2",
    "",
    "99999999999999999999",
    "0",
    "00003",
    "3.0",
    "1e1",
    "abc",
    "9" * 5000,
]
CODINGS = [
    "chunked",
    "Chunked",
    " chunked",
    "chunked ",
    "gzip, chunked",
    "chunked, chunked",
    "identity",
    "gzip",
    "chunked, gzip",
    "xchunked",
    "",
    "chunked,",
    "identity, chunked",
    "deflate, compress, chunked",
    "\x0bchunked",
    "chunked;x=y",
    "trailers",
]
EXPECTS = ["100-continue", "100-Continue", "200-ok", "", "100-continue, x"]
FIELDS = [
    "Accept: */*",
    "User-Agent: wire",
    "X-Api-Key: abc",
    "Content-Type: application/json",
    "Cookie: a=b; c=d",
    "X-Empty:",
    "X-Tab:\ta\t",
    "X-Obs: \xe9",
    "Accept: text/html",
    "Referer: http://x/",
]
ODD_FIELDS = [
    "X Y: z",
    "X_Y: z",
    ": z",
    "X",
    "X : z",
    " X: z",
    "X:\x00",
    "X: a\x01b",
    "X: a\x7fb",
    "X: a\rb",
    "X: a\nb",
    "\xe9: z",
    "X\t: y",
    "X:" + "v" * 9000,
    "Content-Type: text/plain",
    "Host: second",
    "Content-Length: 3",
    "Transfer-Encoding: chunked",
    "X: a\r\n b",
    "X: a\r\n\tb",
    "SCRIPT_NAME: /a",
    "Script-Name: /a",
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-Proto: https",
    "Proxy: x",
    "X(: y",
    "X\x00: y",
    "Upgrade: websocket",
    "TE: trailers",
    "Trailer: X",
    "Keep-Alive: timeout=5",
    "X: \x80\xff",
    'X: "a',
    "X:a",
    "X: a ",
    "Expect: 100-continue",
    "Connection: close",
]
EXTENSIONS = [
    b"",
    b"",
    b"",
    b";x",
    b";x=y",
    b" ;x",
    b"\t;x=y",
    b';x="a b"',
    b";\nxx",
    b"; a\x00b",
    b";\rx",
    b" ",
    b";" + b"e" * 2000,
    b";\x80",
    b"\n",
]
TRAILERS = [
    b"",
    b"",
    b"X: y\r\n",
    b"X: y\r\nZ: w\r\n",
    b"Content-Length: 3\r\n",
    b"Host: z\r\n",
    b"X y: z\r\n",
    b"X: y\n",
    b"Authorization: x\r\n",
    b": x\r\n",
    b"X: a\x00\r\n",
    b" X: y\r\n",
]


@dataclass(frozen=True)
class Case:
    """The bytes of one connection, in pieces. The client then closes its end."""

    number: int
    pieces: tuple[bytes, ...]

    @property
    def sent(self) -> bytes:
        return b"".join(self.pieces)


def odd(random: Random, usual: list[str], strange: list[str], share: float) -> str:
    """Return a usual value, or an unusual one with that probability."""
    return random.choice(strange if random.random() < share else usual)


def chunked(random: Random, body: bytes) -> bytes:
    """Return a body in chunks, sometimes with wrong framing."""
    wrong = random.random()
    framed = b""
    while body:
        size = random.randint(1, len(body))
        piece, body = body[:size], body[size:]
        digits = random.choice([b"%x", b"%X", b"0%x", b"000%x"]) % size
        if wrong < 0.05:
            digits = random.choice(
                [
                    b"",
                    b"zz",
                    b"-1",
                    b"0x3",
                    b"+1",
                    b"1 1",
                    b" 1",
                    b"\xb2",
                    b"f" * 17,
                    b"1_0",
                    digits + b" ",
                    b"ffffffff",
                ]
            )
        framed += digits + (random.choice(EXTENSIONS) if wrong < 0.3 else b"") + b"\r\n" + piece
        framed += (
            random.choice([b"\n", b"", b"x\r\n", b"\r", b"\r\r\n"])
            if 0.3 < wrong < 0.34
            else b"\r\n"
        )
    if wrong > 0.97:
        return framed  # without the last chunk
    return (
        framed
        + random.choice([b"0", b"0", b"0", b"00", b"0;x"])
        + b"\r\n"
        + (random.choice(TRAILERS) if random.random() < 0.4 else b"")
        + b"\r\n"
    )


def request(random: Random, share: float) -> bytes:
    """Return one request. `share` is the probability of each unusual part."""
    method = odd(random, METHODS, ODD_METHODS, share)
    target = odd(random, TARGETS, ODD_TARGETS, share)
    version = odd(random, VERSIONS, ODD_VERSIONS, share)
    lines = [
        (
            f"{method} {target} {version}"
            if random.random() > share / 8
            else f"{method}  {target} {version}"
        )
    ]
    if random.random() > share / 2:
        lines.append(f"Host: {odd(random, HOSTS, ODD_HOSTS, share)}")
    if random.random() < 0.3:
        lines.append(f"Connection: {odd(random, CONNECTIONS, ODD_CONNECTIONS, share)}")
    lines += [odd(random, FIELDS, ODD_FIELDS, share) for _ in range(random.randint(0, 4))]
    if random.random() < share / 6:
        lines.append(f"Expect: {random.choice(EXPECTS)}")
    body = bytes(random.choices(b"abc\r\n0: \x00\xff", k=random.choice([0, 1, 3, 10, 100, 3000])))
    framing = random.random()
    if framing < 0.35:
        lines.append(
            f"Content-Length: {len(body) if random.random() > share else random.choice(LENGTHS)}"
        )
    elif framing < 0.65:
        lines.append(f"Transfer-Encoding: {odd(random, ['chunked'], CODINGS, share)}")
        body = chunked(random, body)
    elif random.random() > share / 4:
        body = b""
    if random.random() < share / 3:
        random.shuffle(lines[1:])
    end = "\r\n" if random.random() > share / 6 else random.choice(["\n", "\r", "\r\r\n", "\n\r"])
    head = end.join(lines) + end + end
    lead = (
        random.choice([b"\r\n", b"\n", b"\r\n\r\n", b" ", b"\r"])
        if random.random() < share / 6
        else b""
    )
    return lead + head.encode("latin-1") + body


def mutated(random: Random, data: bytes) -> bytes:
    """Return data with a few bytes changed, added or removed."""
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(data))
        kind = random.random()
        byte = bytes(
            [random.choice([0, 9, 10, 13, 32, 44, 58, 59, 127, 128, 255, random.randrange(256)])]
        )
        if kind < 0.4:
            data = data[:at] + byte + data[at + 1 :]
        elif kind < 0.7:
            data = data[:at] + byte + data[at:]
        else:
            data = data[:at] + data[at + 1 :]
    return data


def cut(random: Random, data: bytes) -> tuple[bytes, ...]:
    """Return data in pieces."""
    if random.random() < 0.5:
        return (data,)
    places = sorted(
        {0, len(data), *(random.randrange(len(data)) for _ in range(random.choice([1, 1, 2, 5])))}
    )
    return tuple(data[begin:end] for begin, end in itertools.pairwise(places))


def cases(seed: int, requests: int) -> list[Case]:
    """Return connections with that many requests in all. The last request of each must be answered
    if the connection is still usable."""
    random = Random(seed)
    result: list[Case] = []
    number = 0
    while number < requests:
        share = random.choice([0.0, 0.1, 0.1, 0.3, 0.6])
        several = [request(random, share) for _ in range(random.choice([1, 1, 1, 2, 2, 3, 5]))]
        number += len(several)
        data = b"".join(several)
        if random.random() < 0.15:
            data = mutated(random, data)
        if random.random() < 0.05:
            data = data[: random.randrange(1, len(data) + 1)]
            result.append(
                Case(len(result), cut(random, data))
            )  # the connection ends within a request
            continue
        result.append(Case(len(result), cut(random, data + SENTINEL)))
    return result
