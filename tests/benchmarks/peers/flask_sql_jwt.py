"""Flask, Flask-JWT-Extended, and a look-up of the key through SQLAlchemy."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Any

import sqlalchemy as sa
from flask import Flask, abort, request
from flask_jwt_extended import JWTManager, jwt_required

app = Flask("peer")
app.config.update(
    JWT_SECRET_KEY=os.environ["PEER_SECRET"], JWT_DECODE_AUDIENCE="peer", JWT_DECODE_ISSUER="peer"
)
JWTManager(app)
engine = sa.create_engine(os.environ["PEER_DATABASE"])
keys = sa.Table(
    "keys",
    sa.MetaData(),
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("active", sa.Boolean),
)
keys.create(engine, checkfirst=True)
with engine.begin() as connection:
    connection.execute(
        sa.insert(keys),
        {"digest": sha256(os.environ["PEER_KEY"].encode()).digest(), "active": True},
    )


@app.post("/")
@jwt_required()
def echo() -> Any:
    digest = sha256(request.headers.get("X-API-Key", "").encode()).digest()
    with engine.connect() as connection:
        if not connection.scalar(sa.select(keys.c.active).where(keys.c.digest == digest)):
            abort(401)
    return request.get_json()
