"""Signed messages from the centre of a fleet: JSON with a gateway, which may be `*`, and a signature."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Protocol

import orjson

from gateway.core.errors import DecodeError
from gateway.wire.signatures import PublicKeys, private_key

EVERY_GATEWAY = "*"


class Addressed(Protocol):
    """The content of a message, and the gateway that it is for."""

    @property
    def gateway(self) -> str:
        """Id of the gateway, or EVERY_GATEWAY."""

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that are signed."""


def message_of(fields: Mapping[str, object], signed_bytes: bytes, private_key_pem: bytes) -> bytes:
    """Return the fields with their signature as JSON. Raises KeyFileError for what is no Ed25519 key."""
    signature = base64.b64encode(private_key(private_key_pem).sign(signed_bytes)).decode()
    return orjson.dumps({**fields, "signature": signature})


def signature_in(fields: Mapping[str, str]) -> bytes:
    """Return the signature in a message. Raises KeyError, TypeError or ValueError."""
    return base64.b64decode(fields["signature"], validate=True)


def check(found: Addressed, signature: bytes, gateway_id: str, public_key_pem: bytes) -> None:
    """Raise DecodeError unless the signature is right and the message is for this gateway, and KeyFileError
    for what is no key."""
    if not PublicKeys(public_key_pem).any_signed(signature, found.signed_bytes):
        raise DecodeError("its signature is not that of config.public_key_file", reason="signature")
    if found.gateway not in (gateway_id, EVERY_GATEWAY):
        raise DecodeError(f"it is for the gateway {found.gateway!r}", reason="other_gateway")
