"""A reader of the buffer that waits with opening it until somebody asks."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.buffer.reader import Reader
from gateway.core.errors import plain_reason


async def unreadable(_request: Request, exc: Exception) -> Response:
    """Answer a request that raised a ReadError."""
    return PlainTextResponse(f"the buffer cannot be read: {plain_reason(exc)}", 503)


class LateReader:
    """Call it for the reader, always on one thread. Raises ReadError when the file cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: Reader | None = None

    def __call__(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(self._path)
        return self._reader

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
