"""A signed configuration as a message: JSON with the text, its version, for whom it is, and a signature.

    {"gateway": "plant-7", "version": 12, "config": "gateway: …", "signature": "…base64…"}

The signature is Ed25519 over `edge-gateway-config`, the gateway, the version in decimal and the text, all
UTF-8, with a zero byte between. `gateway` may be `*`: for every gateway.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from gateway.core.errors import DecodeError
from gateway.wire.signed_message import check, message_of, signature_in

_CONTEXT = b"edge-gateway-config"
MAX_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class SignedConfig:
    """A configuration's text, its version, and the gateway that it is for."""

    gateway: str
    version: int
    text: str

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that are signed."""
        return b"\0".join((_CONTEXT, self.gateway.encode(), str(self.version).encode(), self.text.encode()))

    def sign(self, private_key_pem: bytes) -> bytes:
        """Return the message. Raises KeyFileError for what is no Ed25519 key."""
        told = {"gateway": self.gateway, "version": self.version, "config": self.text}
        return message_of(told, self.signed_bytes, private_key_pem)


def read_signed_config(payload: bytes, gateway_id: str, public_key_pem: bytes) -> SignedConfig:
    """Return what a message holds. Raises DecodeError if its signature is wrong or it is for
    another gateway; KeyFileError for what is no key."""
    if len(payload) > MAX_BYTES:
        raise DecodeError("a configuration has at most 2 MiB", reason="too_large")
    try:
        told = orjson.loads(payload)
        found = SignedConfig(str(told["gateway"]), int(told["version"]), str(told["config"]))
        signature = signature_in(told)
    except (ValueError, KeyError, TypeError) as exc:
        raise DecodeError("it is no signed configuration", reason="malformed") from exc
    check(found, signature, gateway_id, public_key_pem)
    return found
