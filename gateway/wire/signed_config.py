"""A signed configuration as a message: JSON with the text, its version, for whom it is, and a signature.

    {"gateway": "plant-7", "version": 12, "config": "gateway: …", "signature": "…base64…"}

The signature is Ed25519 over `edge-gateway-config`, the gateway, the version in decimal and the text, all
UTF-8, with a zero byte between. `gateway` may be `*`: for every gateway.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.core.errors import DecodeError

_CONTEXT = b"edge-gateway-config"
EVERY_GATEWAY = "*"
MAX_BYTES = 2 * 1024 * 1024
_HINT = "pip install 'mqtt-edge-gateway[signed]'"


@dataclass(frozen=True)
class SignedConfig:
    """A configuration's text, its version, and the gateway that it is for."""

    gateway: str
    version: int
    text: str

    @property
    def _signed_bytes(self) -> bytes:
        return b"\0".join((_CONTEXT, self.gateway.encode(), str(self.version).encode(), self.text.encode()))

    def sign(self, private_key_pem: bytes) -> bytes:
        """Return the message. Raises DecodeError for what is no Ed25519 key."""
        signature = _private_key(private_key_pem).sign(self._signed_bytes)
        told = {"gateway": self.gateway, "version": self.version, "config": self.text}
        return orjson.dumps(told | {"signature": base64.b64encode(signature).decode()})


def read_signed_config(payload: bytes, gateway_id: str, public_key_pem: bytes) -> SignedConfig:
    """Return what a message holds. Raises DecodeError if its signature is wrong or it is for another."""
    if len(payload) > MAX_BYTES:
        raise DecodeError("a configuration has at most 2 MiB", reason="too_large")
    try:
        told = orjson.loads(payload)
        found = SignedConfig(str(told["gateway"]), int(told["version"]), str(told["config"]))
        signature = base64.b64decode(told["signature"], validate=True)
    except (ValueError, KeyError, TypeError) as exc:
        raise DecodeError("it is no signed configuration", reason="malformed") from exc
    _verify(found, signature, public_key_pem)
    if found.gateway not in (gateway_id, EVERY_GATEWAY):
        raise DecodeError(f"it is for the gateway {found.gateway!r}", reason="other_gateway")
    return found


def make_keys() -> tuple[bytes, bytes]:
    """Return a new private and public key, both PEM."""
    serialization, ed25519 = _crypto()
    private = ed25519.Ed25519PrivateKey.generate()
    return (
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def _verify(found: SignedConfig, signature: bytes, public_key_pem: bytes) -> None:
    serialization, ed25519 = _crypto()
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra

    try:
        key = serialization.load_pem_public_key(public_key_pem)
    except ValueError as exc:
        raise DecodeError("config.public_key_file has no public key", reason="key") from exc
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise DecodeError("config.public_key_file has no Ed25519 key", reason="key")
    try:
        key.verify(signature, found._signed_bytes)
    except InvalidSignature as exc:
        raise DecodeError("its signature is not that of config.public_key_file", reason="signature") from exc


def _private_key(pem: bytes) -> Any:
    serialization, ed25519 = _crypto()
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as exc:
        raise DecodeError("the key file has no private key without a password", reason="key") from exc
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise DecodeError("the key file has no Ed25519 key", reason="key")
    return key


def _crypto() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError as exc:
        raise DecodeError("signatures need the package cryptography", reason="key", hint=_HINT) from exc
    return serialization, ed25519
