"""schemathesis against the running demo: what `/-/openapi.json` says is what callers get."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.place import ROOT, Place, Server

Serve = Callable[..., Server]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)


@pytest.mark.timeout(240)
def test_the_demo_holds_what_its_document_says(
    sqlite_place: Place, serve: Serve, tmp_path: Path
) -> None:
    sqlite_place.consumer("demo", "login", "orders")
    sqlite_place.designate("login")
    key = sqlite_place.key("demo").key
    token = sqlite_place.token("demo", scopes=frozenset({"orders:read", "orders:write"}))
    server = serve(
        sqlite_place, PENSTOCK_PLUGIN_PATH=str(ROOT / "plugins"), PENSTOCK_OPENAPI="true"
    )
    headers = ["-H", f"X-API-Key: {key}", "-H", f"Authorization: Bearer {token}"]
    options = [
        "-c",
        ",".join(CHECKS),
        "--max-examples",
        "25",
        "--seed",
        "1",
        "--generation-database",
        "none",
    ]

    described = server.client.get("/-/openapi.json").json()
    for path in described["paths"].values():
        for operation in path.values():
            del operation["responses"]["default"]  # with it any status would do
    (tmp_path / "openapi.json").write_text(json.dumps(described), encoding="utf-8")

    program = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        "openapi.json",
        "--url",
        server.url,
    ]
    done = subprocess.run(
        [*program, *headers, *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=200,
    )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "Selected: 7/7" in done.stdout
    assert "Traceback" not in server.log.read_text()
