"""Credentials are hidden wherever they stand, and hiding them never fails: in texts, bodies,
queries, forms and paths."""

from __future__ import annotations

import json
import string
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.masks import HIDDEN, masked, masked_fields, shortened
from penstock.contracts.sanitize import as_json
from penstock.runs.redaction import Redactor, hidden_in

KEY = "pk_test_AbCdEfGhIjKlMnOpQrStUvWx012345"
HEADER, CLAIMS, SIGNATURE = (
    "eyJhbGciOiJFZERTQSIsImtpZCI6ImMxOSJ9",
    "eyJzdWIiOiJhbm4iLCJleHAiOjF9",
    "c2lnbmF0dXJlLW9mLWl0LWFsbA",
)
TOKEN = f"{HEADER}.{CLAIMS}.{SIGNATURE}"
PART = KEY[8:16]
SECRETS = {KEY: "AbCdEfGhIjKlMnOp", TOKEN: "eyJhbGciOiJFZERT", f"{HEADER}.{CLAIMS}.": CLAIMS}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "a{}",
        "%3D{}&b",
        "/v1/x/{}/y",
        '"{}"',
        "b'{}'",
        "Bearer {}",
        "{}\n{}",
        "invalid literal: '{}'",
        "\x1b[31m{}\x1b[0m",
        "ü{}ü",
    ],
)
def test_keys_and_tokens_are_known_by_their_shape(text: str, secret: str) -> None:
    shown = masked(text.replace("{}", secret))

    assert SECRETS[secret] not in shown
    assert shown.startswith(text.split("{}", maxsplit=1)[0] + HIDDEN)


@pytest.mark.parametrize(
    "written",
    [
        quote(KEY.replace("_", "%5F")),
        KEY.replace("_", "%5f"),
        TOKEN.replace(".", "%2E"),
        TOKEN.replace(".", "%252e"),
        KEY + KEY,
        TOKEN * 3,
        f"{TOKEN}.more.parts",  # encrypted ones (RFC 7516) have five
        KEY.replace("test", "a" + "-b" * 15),
    ],
)
def test_they_are_known_when_they_are_escaped_or_stand_together(written: str) -> None:
    assert masked(f"x={written}&y").replace(HIDDEN * 2, HIDDEN) == f"x={HIDDEN}&y"


@pytest.mark.parametrize(
    "text",
    [
        "monkey.business.here",
        "penstock.keys.of.all",
        "pk_test_short",
        "they, hey.you.there",
        "eyJ.x.y",
        "v1.2.3",
    ],
)
def test_what_only_looks_a_little_like_them_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize("secret", [KEY, TOKEN])
def test_a_credential_that_a_cut_would_divide_leaves_nothing_behind(secret: str) -> None:
    for most in range(2, 160):
        for before in (0, 40):
            shown = shortened("é" * before + secret + " and more" * 100, most)
            assert len(shown) <= most
            assert not any(
                secret[start : start + 12] in shown for start in range(8, len(secret) - 12)
            )


def test_one_that_ends_beyond_what_is_looked_at_leaves_nothing_behind_either() -> None:
    for most in range(2, 200, 7):
        assert "aaaa" not in shortened(f"x eyJ{'a' * 5000}.{'b' * 5000}.c", most)
        assert PART not in shortened(f"{KEY} " * 500, most)
        assert PART not in shortened(f"{TOKEN} " * 500, most)


def test_a_mask_makes_no_text_longer_than_it_may_be() -> None:
    assert shortened("a=1", 5, names={"a"}) == "a=***"
    assert shortened("a=1", 4, names={"a"}) == "a=*…"


@pytest.mark.parametrize(
    "text",
    [
        "password={}",
        "password: {}",
        "PASSWORD = {}, user=ann",
        "password='{}'",
        'password="{}"',
        '{"password": "{}"}',
        "{'password': '{}', 'user': 'ann'}",
        '{"password": "a\\"b{}"}',
        'password="{}',  # cut off
        "password='{}\\",
        "password=b'{}'",
        "password=['{}', '{}']",
        'password={"value": "{}"}',
        '{\\"password\\": \\"two {}\\", \\"user\\": 1}',
        'password=ab"cd{}',
        "password=ab,{}",
        "Authorization: Basic {}",
        "authorization: Bearer {}",
        "{'Authorization': 'Digest {}'}",
        "url?token={}&x=1",
        "token={} token={}",
    ],
)
def test_a_password_is_known_by_the_name_before_it(text: str) -> None:
    assert "hunter2" not in masked_fields(text.replace("{}", "hunter2"))


def test_what_stands_beside_a_password_stays() -> None:
    assert (
        masked_fields("user=ann, password=x, total=3; token: y; id=7")
        == "user=ann, password=***, total=3; token: ***; id=7"
    )
    assert masked_fields("passwords=2 the password is") == "passwords=2 the password is"


@pytest.mark.parametrize(
    "name",
    [
        "new_password",
        "passwordConfirm",
        "refreshToken",
        "X-API-Key",
        "pwd",
        "db_password",
        "clientSecret",
        "jwt",
        "otp",
        "session-id",
        "accessKey",
    ],
)
def test_usual_names_of_credentials_are_known_also_within_longer_ones(
    sensitive_nothing: Redactor, name: str
) -> None:
    assert "hunter2" not in str(
        sensitive_nothing.body("application/json", json.dumps({"a": {name: "hunter2"}}).encode())
    )
    assert "hunter2" not in str(sensitive_nothing.query(f"{name}=hunter2"))
    assert "hunter2" not in masked_fields(f"it failed with {name}: hunter2")


@pytest.mark.parametrize(
    "name", ["tokens", "token_type", "secretary", "passage", "pinned", "key", "spin", "author"]
)
def test_other_names_are_kept(sensitive_nothing: Redactor, name: str) -> None:
    assert "lake" in str(
        sensitive_nothing.body("application/json", json.dumps({name: "lake"}).encode())
    )
    assert "lake" in masked_fields(f"{name}: lake")


@pytest.fixture
def sensitive_nothing() -> Redactor:
    return Redactor.of(())


TEXTS = st.text(max_size=20) | st.sampled_from(
    [KEY, TOKEN, f"a {KEY}b", "password", "iban", "***", "\ud800", "\0", "a/b~c", ""]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
PLACES = st.lists(TEXTS | TEXTS.map(lambda text: "/" + text), max_size=4)
SENSITIVE = PLACES.map(Redactor.of)


def leaks(stored: object) -> bool:
    written = as_json(stored).decode()
    return any(part in written for part in SECRETS.values())


@settings(max_examples=300, deadline=None)
@given(sensitive=SENSITIVE, value=VALUES)
def test_no_body_stops_redaction_and_none_keeps_a_credential(
    sensitive: Redactor, value: Any
) -> None:
    stored = sensitive.body("application/json", json.dumps(value).encode("utf-8"))

    assert not leaks(stored)
    assert isinstance(hidden_in(stored.get("json")), list)


@settings(max_examples=300, deadline=None)
@given(
    sensitive=SENSITIVE,
    pairs=st.lists(st.tuples(TEXTS, TEXTS), max_size=5),
    tail=st.text(alphabet=string.printable, max_size=20),
)
def test_no_query_stops_redaction_and_none_keeps_a_credential(
    sensitive: Redactor, pairs: list[tuple[str, str]], tail: str
) -> None:
    for query in (
        urlencode(pairs, errors="replace") + tail,
        "&".join(f"{name}={value}" for name, value in pairs) + tail,
    ):
        stored = sensitive.query(query)
        assert not leaks(stored)
        assert isinstance(hidden_in(stored, "?"), list)


@settings(max_examples=200, deadline=None)
@given(
    sensitive=SENSITIVE,
    fields=st.dictionaries(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), max_size=4),
    text=TEXTS | st.text(max_size=60),
    kind=TEXTS,
    body=st.binary(max_size=40),
)
def test_nothing_else_that_a_call_brings_stops_redaction(
    sensitive: Redactor, fields: dict[str, list[str]], text: str, kind: str, body: bytes
) -> None:
    stored = [
        sensitive.form(fields),
        sensitive.text(text),
        sensitive.body(kind, body),
        sensitive.path(f"/v1/x/{text}/y", {"a": text, "iban": kind}),
    ]

    assert not leaks(stored)


@pytest.mark.parametrize(
    ("query", "stored"),
    [
        (f"{KEY}=1", {"***": ["1"]}),
        (f"{KEY}", {"***": [""]}),
        (f"{KEY}=1&{KEY[:-1]}9=2&***=3", {"***": ["1", "2", "3"]}),
        (f"a={KEY}&a=2", {"a": ["***", "2"]}),
        (f"{KEY}=1&password=2&a=3", {"***": ["1"], "password": "***", "a": ["3"]}),
    ],
)
def test_a_parameter_may_be_named_like_a_key(query: str, stored: dict[str, object]) -> None:
    assert Redactor.of(()).query(query) == stored


def test_parameters_of_a_path_are_hidden_by_name_and_by_shape() -> None:
    sensitive = Redactor.of(["iban", "/order"])

    assert (
        sensitive.path("/v1/x/DE12/items/DE12", {"IBAN": "DE12", "n": "1"}) == "/v1/x/***/items/***"
    )
    assert sensitive.path("/v1/x/7/items", {"order": "7"}) == "/v1/x/***/items"
    assert sensitive.path(f"/v1/x/{KEY}", {"id": KEY}) == "/v1/x/***"


def test_what_is_hidden_in_part_is_known_to_be_incomplete() -> None:
    stored = Redactor.of(()).body(
        "application/json", json.dumps({"a": [f"x {KEY}"], KEY: 1, "b": "c"}).encode()
    )

    assert hidden_in(stored["json"]) == ["", "/a/0"]
