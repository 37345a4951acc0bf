"""The bodies of requests, which are small here."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from gateway.http.connections import REQUEST_WITHIN_S

MAX_BODY_BYTES = 4096


async def read_body(request: Request) -> bytes:
    """Read the posted body; empty where it is larger than any sensible one, or does not come in time."""
    body = b""
    try:
        async with asyncio.timeout(REQUEST_WITHIN_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    return b""
    except TimeoutError:
        return b""
    return body
