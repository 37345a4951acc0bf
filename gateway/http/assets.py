"""The files of the dashboard, read once at the start: nothing that is asked for can name another file."""

from __future__ import annotations

from hashlib import blake2b
from importlib.resources import files
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


class Asset(NamedTuple):
    """A file as it is sent."""

    content: bytes
    media_type: str
    etag: str


class Assets:
    """The files in `gateway/http/page`, by name."""

    def __init__(self) -> None:
        folder = files("gateway.http") / "page"
        self._assets = {file.name: _asset(file.name, file.read_bytes()) for file in folder.iterdir()}

    def answer(self, request: Request, name: str) -> Response:
        """The file, or that it has not changed, or that there is none."""
        asset = self._assets.get(name)
        if asset is None:
            return Response("There is no such file.", 404, media_type="text/plain")
        headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, media_type=asset.media_type, headers=headers)


def _asset(name: str, content: bytes) -> Asset:
    etag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
    return Asset(content, TYPES[name.rpartition(".")[2]], etag)
