"""Signed audit records: Ed25519 over the exact bytes, each record with the hash of the one before it.

A signed record is the JSON of an audit record that ends with its place in the chain and its signature:
`…,"number":17,"previous":"…","key":"…","signature":"…"}`. The signature is over everything before
`,"signature":`. Needs the extra `evidence` (the package cryptography) to sign or to check, not to read.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import orjson

from gateway.core.errors import GatewayError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 320
"""Upper bound of what signing adds to a record."""
_SIGNATURE = b',"signature":"'
_PEM_BEGIN, _PEM_END = b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----"
_GATEWAY = "gateway:"


class KeyFileError(GatewayError):
    """Raised when a file holds no key that signs or checks audit records."""


class Place(NamedTuple):
    """A place in the chain of records of one buffer: the number and hash of the newest record."""

    number: int = 0
    previous: bytes = bytes(32)


class SignedRecord(NamedTuple):
    """A record as it was received; whether its signature is good is another question."""

    payload: bytes
    number: int
    previous: bytes
    key_id: str

    @property
    def hash(self) -> bytes:
        return record_hash(self.payload)


class SigningKey:
    """A private key. Raises KeyFileError unless `pem` is an Ed25519 key without a password."""

    def __init__(self, pem: bytes) -> None:
        self._key = private_key(pem)
        self.key_id = key_id(self._key.public_key())

    def sign(self, payload: bytes, place: Place) -> tuple[bytes, Place]:
        """Return `payload`, the JSON of an audit record, signed as the one after `place`; and its place."""
        more = {
            "number": place.number + 1,
            "previous": b64encode(place.previous).decode(),
            "key": self.key_id,
        }
        body = payload[:-1] + b"," + orjson.dumps(more)[1:-1]
        signature = b64encode(self._key.sign(body))
        signed = body + _SIGNATURE + signature + b'"}'
        return signed, Place(place.number + 1, record_hash(signed))


class PublicKeys:
    """The keys of gateways, those of each oldest first. Lines `gateway: ID` before a key say whose it is;
    without them it may sign for any. Raises KeyFileError unless `pem` has at least one."""

    def __init__(self, pem: bytes) -> None:
        blocks = [block.rpartition(_PEM_BEGIN) for block in pem.split(_PEM_END)[:-1]]
        keys = [_public_key(begin + body + _PEM_END) for _, begin, body in blocks]
        if not keys:
            raise KeyFileError(
                "there is no public key", hint="give the .pub file that `gateway keys new` wrote"
            )
        self._keys = {key_id(key): key for key in keys}
        self.ids: Sequence[str] = [*self._keys]
        self.gateways: dict[str, Sequence[str]] = {
            name: _named_gateways(text) for name, (text, _, _) in zip(map(key_id, keys), blocks, strict=True)
        }
        """By key: the gateways that it signs for; none for all."""

    def belongs(self, key: str, gateway_id: str) -> bool:
        """Return True if this key may sign for this gateway."""
        return not self.gateways.get(key) or gateway_id in self.gateways[key]

    def any_signed(self, signature: bytes, body: bytes) -> bool:
        """Return True if one of the keys has made `signature` over `body`."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra

        for key in self._keys.values():
            with suppress(InvalidSignature):
                key.verify(signature, body)
                return True
        return False

    def is_signed(self, record: SignedRecord) -> bool:
        """Return True if one of the keys has signed exactly these bytes."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra

        key = self._keys.get(record.key_id)
        body, _, rest = record.payload.rpartition(_SIGNATURE)
        if key is None or not rest.endswith(b'"}'):
            return False
        try:
            key.verify(b64decode(rest[:-2], validate=True), body)
        except (InvalidSignature, ValueError):
            return False
        return True


def read_signed(payload: bytes) -> SignedRecord | None:
    """Return what a signed record says of itself; None for one without a signature."""
    if _SIGNATURE not in payload:
        return None
    try:
        fields = orjson.loads(payload)
        previous = b64decode(fields["previous"], validate=True)
        record = SignedRecord(payload, fields["number"], previous, fields["key"])
    except (ValueError, KeyError, TypeError):
        return None
    return record if type(record.number) is int and isinstance(record.key_id, str) else None


def record_hash(payload: bytes) -> bytes:
    """Return the hash by which the next record names this one."""
    return sha256(payload).digest()


def new_key() -> tuple[bytes, bytes]:
    """Make a key; return its private and its public part as PEM."""
    serialization, ed25519 = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, public_pem(key.public_key())


def named_pem(public: bytes, gateway_ids: Sequence[str]) -> bytes:
    """Return a public key that signs for these gateways only."""
    return "".join(f"{_GATEWAY} {one}\n" for one in gateway_ids).encode() + public


def _named_gateways(text: bytes) -> list[str]:
    lines = (line.strip() for line in text.decode(errors="replace").splitlines())
    return [line[len(_GATEWAY) :].strip() for line in lines if line.lower().startswith(_GATEWAY)]


def public_pem(key: Ed25519PublicKey) -> bytes:
    """Return a public key as PEM."""
    serialization, _ = _cryptography()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_id(key: Ed25519PublicKey) -> str:
    """Return the name of a key: the beginning of its hash."""
    return sha256(key.public_bytes_raw()).hexdigest()[:16]


def private_key(pem: bytes) -> Ed25519PrivateKey:
    """Return a private key. Raises KeyFileError unless `pem` is Ed25519 without a password."""
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as exc:
        raise KeyFileError(f"not a private key: {exc}", hint="make one with `gateway keys new`") from exc
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeyFileError("not an Ed25519 key", hint="make one with `gateway keys new`")
    return key  # type: ignore[no-any-return]


def _public_key(pem: bytes) -> Ed25519PublicKey:
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as exc:
        raise KeyFileError(f"not a public key: {exc}") from exc
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise KeyFileError("not an Ed25519 key")
    return key  # type: ignore[no-any-return]


def _cryptography() -> tuple[ModuleType, ModuleType]:
    """Import the extra. Raises KeyFileError where it is not installed."""
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - an extra
    except ImportError as exc:
        hint = "pip install 'mqtt-edge-gateway[evidence]'"
        raise KeyFileError(f"signing needs the package cryptography: {exc}", hint=hint) from exc
    return serialization, ed25519
