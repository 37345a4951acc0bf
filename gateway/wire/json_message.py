"""Reading of the JSON messages that gateways and receivers send each other: objects with a version."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from gateway.core.errors import DecodeError


class JsonMessage(NamedTuple):
    """A kind of message. Each problem is a DecodeError with `reason`, that says what it is not."""

    what: str  # with its article
    reason: str
    version: int
    most_bytes: int

    def read(self, payload: bytes) -> dict[str, Any]:
        """Return the members of a message of this version. Raises DecodeError."""
        if len(payload) > self.most_bytes:
            raise self.refusal(f"{len(payload)} bytes are too many")
        try:
            fields = orjson.loads(payload)
        except orjson.JSONDecodeError as exc:
            raise self.refusal(f"no JSON: {exc}") from exc
        if not isinstance(fields, dict) or fields.get("version") != self.version:
            raise self.refusal(f"not of version {self.version}")
        return fields

    def text(self, fields: dict[str, Any], name: str) -> str:
        """Return a member that is a text, which an output can store. Raises DecodeError."""
        value = fields.get(name)
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.refusal(f"{name} is no text")
        return value

    def refusal(self, problem: str) -> DecodeError:
        """Return the error for a problem."""
        return DecodeError(f"not {self.what}: {problem}", reason=self.reason)
