"""A view that anybody may call."""

from __future__ import annotations

from typing import Any

from flask import Flask, request

app = Flask("bare")


@app.post("/")
def echo() -> Any:
    return request.get_json()
