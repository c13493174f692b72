"""Options of wrong types: each is one line that names the option or its value, and none raises
an error that names neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock import Cors, Durable, HttpTrigger, Pipeline, Rate, Retry, Schedule
from penstock.contracts.pipeline import Route
from penstock.endpoints.route_problems import path_problems

WRONG: dict[str, object] = {"number": 5, "flag": True, "text": "x y", "bytes": b"x", "list": [1.5]}
# Types that an option accepts, by option.
RIGHT: dict[str, set[str]] = {
    "signature": set(),
    "max_body": {"number"},
    "timeout": {"number"},
    "in_flight": {"number"},
    "concurrency": {"number"},
    "backlog": {"number"},
    "recoveries": {"number"},
    "max_age": {"number"},
    "deprecated": {"flag"},
    "summary": {"text"},
    "body": {"number", "flag", "text", "bytes", "list"},
    "path": {"text"},
    "sensitive": {"text"},
    "attempts": {"number"},
    "backoff": {"number"},
    "longest": {"number"},
    "jitter": {"flag"},
}
FLAGS = (
    "api_key", "jwt", "basic", "mtls", "login", "external", "internal", "forward_token",
    "credentials",
)  # fmt: skip


def _pipeline(**options: Any) -> Pipeline:
    pipeline = Pipeline(
        **{"name": "orders", "version": "1.0.0", "trigger": HttpTrigger(api_key=True), **options}
    )
    pipeline.get("/")(lambda call: None)
    return pipeline


DECLARATIONS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "HttpTrigger": (
        lambda **options: HttpTrigger(**{"api_key": True, **options}),
        (
            "api_key", "jwt", "basic", "signature", "mtls", "scopes", "login", "external",
            "internal", "max_body", "timeout", "cors", "rate", "in_flight", "allow", "deny",
            "idempotent", "forward_token",
        ),
    ),
    "Durable": (Durable, ("concurrency", "backlog", "timeout", "recoveries")),
    "Schedule": (
        lambda **options: Schedule(**{"cron": "0 6 * * *", **options}),
        ("cron", "timezone", "missed", "path", "body"),
    ),
    "Cors": (
        lambda **options: Cors(**{"origins": "https://shop.example", **options}),
        ("methods", "headers", "expose", "credentials", "max_age"),
    ),
    "Rate": (lambda **options: Rate(**{"text": "1/second", **options}), ("text", "by")),
    "Pipeline": (
        _pipeline,
        (
            "name", "version", "trigger", "summary", "needs", "durable", "sensitive",
            "record_bodies", "deprecated", "sunset",
        ),
    ),
}  # fmt: skip
CASES = [
    (kind, name, wrong)
    for kind, (_, names) in DECLARATIONS.items()
    for name in names
    for wrong in WRONG
    if wrong not in RIGHT.get(name, set()) and not (name in FLAGS and wrong == "flag")
]


def _faults(kind: str, name: str, value: object) -> list[str]:
    """Return what a declaration with one wrong option reports."""
    try:
        declared = DECLARATIONS[kind][0](**{name: value})
    except TypeError as error:
        return [str(error)]
    url_problems = list(declared.url_problems()) if isinstance(declared, Pipeline) else []
    return [f"{problem}; {fix}" for problem, fix in url_problems or declared.problems()]


@pytest.mark.parametrize(("kind", "name", "wrong"), CASES)
def test_a_value_of_a_wrong_type_is_one_line_with_a_fix(kind: str, name: str, wrong: str) -> None:
    faults = _faults(kind, name, WRONG[wrong])

    assert faults
    for fault in faults:
        assert "\n" not in fault
        assert "object is not" not in fault
        assert "unhashable" not in fault


@pytest.mark.parametrize("value", [5, "no", None])
def test_a_retry_takes_true_or_false_for_jitter(value: object) -> None:
    with pytest.raises(ValueError, match=r"Retry\(jitter=.* is neither True nor False"):
        Retry(jitter=value)  # type: ignore[arg-type]  # what a developer may write


def test_one_text_in_place_of_a_rate_is_one_fault() -> None:
    problems = list(HttpTrigger(api_key=True, rate="100/second").problems())  # type: ignore[arg-type]  # as above

    assert problems == [
        ("'100/second' is no rate", 'give rate=[Rate("100/second", by="consumer")]')
    ]


def test_two_triggers_are_named_as_such() -> None:
    pipeline = _pipeline(trigger=[HttpTrigger(), HttpTrigger()])

    assert next(iter(pipeline.url_problems()))[0] == "it has 2 HttpTriggers"


def test_a_path_that_is_no_text_is_a_fault_of_its_route() -> None:
    route = Route("GET", 5, lambda call: None)  # type: ignore[arg-type]  # as above

    assert [item.problem for item in path_problems(route)] == ["GET 5: 5 is no path"]


def test_the_longest_time_limit_is_written_in_plain_digits() -> None:
    ((_, fix),) = Durable(timeout=0).problems()

    assert fix == "give seconds above 0, at most 2592000"
