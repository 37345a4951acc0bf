"""A signed request for a support bundle: JSON with the gateway, a number that grows, and a signature.

    {"gateway": "plant-7", "number": 1790000000000, "signature": "…base64…"}

The signature is Ed25519 over `edge-gateway-support`, the gateway and the number in decimal, all UTF-8, with a
zero byte between. `gateway` may be `*`: for every gateway.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from gateway.core.errors import DecodeError
from gateway.wire.signed_message import check, message_of, signature_in

_CONTEXT = b"edge-gateway-support"
_MOST_BYTES = 4096


@dataclass(frozen=True)
class SupportRequest:
    """A request, and the gateway that it is for."""

    gateway: str
    number: int

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that are signed."""
        return b"\0".join((_CONTEXT, self.gateway.encode(), str(self.number).encode()))

    def sign(self, private_key_pem: bytes) -> bytes:
        """Return the message. Raises KeyFileError for what is no Ed25519 key."""
        told = {"gateway": self.gateway, "number": self.number}
        return message_of(told, self.signed_bytes, private_key_pem)


def read_support_request(payload: bytes, gateway_id: str, public_key_pem: bytes) -> SupportRequest:
    """Return the request in a message. Raises DecodeError if its signature is wrong or it is for another
    gateway; KeyFileError for what is no key."""
    try:
        told = orjson.loads(payload[:_MOST_BYTES])
        found = SupportRequest(str(told["gateway"]), int(told["number"]))
        signature = signature_in(told)
    except (ValueError, KeyError, TypeError) as exc:
        raise DecodeError("it is no request for a support bundle", reason="malformed") from exc
    check(found, signature, gateway_id, public_key_pem)
    return found
