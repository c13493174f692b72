"""FastAPI with the two checks, keys in memory."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Annotated, Any

import jwt
from fastapi import Body, Depends, FastAPI, Header, HTTPException

app = FastAPI()
KEYS = {sha256(os.environ["PEER_KEY"].encode()).digest()}


async def checked(
    x_api_key: Annotated[str, Header()], authorization: Annotated[str, Header()]
) -> dict[str, Any]:
    if sha256(x_api_key.encode()).digest() not in KEYS:
        raise HTTPException(401)
    try:
        return jwt.decode(
            authorization[7:],
            os.environ["PEER_SECRET"],
            algorithms=["HS256"],
            audience="peer",
            issuer="peer",
        )
    except jwt.PyJWTError:
        raise HTTPException(401) from None


@app.post("/")
async def echo(
    data: Annotated[dict[str, Any], Body()], claims: Annotated[dict[str, Any], Depends(checked)]
) -> dict[str, Any]:
    return data
