"""Unwrapping of payloads before decoding: base64, compression, a character set.

Nothing here is spent on a message that its decoder reads as it came. Only one that it refuses is looked at a
second time: is it gzip, zlib, raw deflate or zstd, has it a byte order mark or NULs at its end, is it UTF-16
or Latin-1? What is unpacked is bounded, whatever it claims of itself.
"""

from __future__ import annotations

import codecs
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import zstandard

from gateway.core.errors import ConfigError, DecodeError
from gateway.core.expressions import bytes_of_base64, bytes_of_hex
from gateway.decode.decoders.plain import MAX_DECODED_BYTES, check_size

Compression = Literal["auto", "none", "gzip", "zlib", "deflate", "zstd"]
TextEncoding = Literal["none", "base64", "hex"]

AUTO = "auto"
LATIN_1 = "charset"
"""In `Decoded.notes`: the text was neither UTF-8 nor UTF-16 and was read as Latin-1."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MOST_WINDOW_BYTES = 2**23  # what a frame may ask to be kept in memory while it is unpacked
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Control characters of Latin-1 that no text has: their absence tells text from compressed bytes.
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class PayloadSpec:
    """Wrapping of a route's payloads. `auto` finds out by itself, for each message."""

    compression: Compression = "auto"
    charset: str = AUTO
    encoding: TextEncoding = "none"
    duplicates: Literal["last", "number"] = "last"

    @property
    def is_stated(self) -> bool:
        """True if every message must be unwrapped before it is decoded."""
        return self.compression not in ("auto", "none") or self.charset != AUTO or self.encoding != "none"


def check_charset(name: str) -> str:
    """`auto`, or the name of a character set that Python knows. Raises ConfigError."""
    if name == AUTO:
        return name
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        found = None
    if found is None or not getattr(found, "_is_text_encoding", True):
        raise ConfigError(
            f"unknown character set {name!r}",
            hint="write auto, or for example utf-8, utf-16, latin-1, cp1252",
        )
    return name


def stated(payload: bytes, spec: PayloadSpec, *, is_text: bool) -> bytes:
    """`payload` without the wrapping that the route states. Raises DecodeError."""
    if spec.encoding != "none":
        payload = _bytes_of_text(payload, spec.encoding)
    if spec.compression not in ("auto", "none"):
        payload = _unpacked(payload, spec.compression)
    if is_text and spec.charset != AUTO:
        payload = _as_utf8(payload, spec.charset)
    return payload


def second_readings(payload: bytes, spec: PayloadSpec, *, is_text: bool) -> Iterator[tuple[bytes, str]]:
    """Yield other readings of a payload that its decoder refused, the likeliest first, each with a note about
    it."""
    packed = _kind_by_magic(payload) if spec.compression == AUTO else None
    if packed:
        try:
            payload = _unpacked(payload, packed)
        except DecodeError:
            if packed != "zlib":  # whose two bytes of magic may be anything
                raise
        else:
            yield payload, ""
    if spec.compression == AUTO and not packed and _NO_TEXT.search(payload):
        yield from _deflated(payload, spec, is_text=is_text)
    if is_text and spec.charset == AUTO:
        yield from _charsets(payload)


def _deflated(payload: bytes, spec: PayloadSpec, *, is_text: bool) -> Iterator[tuple[bytes, str]]:
    """Raw deflate has no magic: only a stream that ends where the payload ends is taken for one."""
    try:
        unpacked = _unpacked(payload, "deflate")
    except DecodeError:
        return
    yield unpacked, ""
    if is_text and spec.charset == AUTO:
        yield from _charsets(unpacked)


def _charsets(payload: bytes) -> Iterator[tuple[bytes, str]]:
    if payload.startswith(codecs.BOM_UTF8):
        yield payload[len(codecs.BOM_UTF8) :], ""
    unended = payload.rstrip(b"\x00")
    if unended != payload and unended and b"\x00" not in unended:  # as C ends a text
        payload = unended
        yield payload, ""
    if _looks_like_utf16(payload):
        with suppress(DecodeError):
            yield _as_utf8(payload, "utf-16" if payload[:2] in _UTF16_MARKS else _byte_order(payload)), ""
    if b"\x00" not in payload and not _is_utf8(payload):
        yield payload.decode("latin-1").encode(), LATIN_1


def _looks_like_utf16(payload: bytes) -> bool:
    return len(payload) % 2 == 0 and (payload[:2] in _UTF16_MARKS or b"\x00" in payload[:4])


def _byte_order(payload: bytes) -> str:
    return "utf-16-be" if payload[:1] == b"\x00" else "utf-16-le"


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _as_utf8(payload: bytes, charset: str) -> bytes:
    try:
        return payload.decode(charset).removeprefix("\ufeff").encode()
    except (UnicodeError, ValueError) as exc:
        raise DecodeError(f"the text is not {charset}: {exc}", reason="charset") from exc


def _bytes_of_text(payload: bytes, encoding: TextEncoding) -> bytes:
    check_size(payload)
    read = bytes_of_base64 if encoding == "base64" else bytes_of_hex
    found = read(payload.decode("latin-1"))
    if found is None:
        raise DecodeError(f"the payload is not {encoding}", reason=encoding)
    return found


def _kind_by_magic(payload: bytes) -> Compression | None:
    if payload[:2] == b"\x1f\x8b":
        return "gzip"
    if payload[:4] == _ZSTD_MAGIC:
        return "zstd"
    if len(payload) > 2 and payload[0] & 0x0F == 8 and (payload[0] << 8 | payload[1]) % 31 == 0:
        return "zlib"
    return None


def _unpacked(payload: bytes, kind: Compression) -> bytes:
    check_size(payload)
    unpacked = _unzstd(payload) if kind == "zstd" else _inflated(payload, kind)
    check_size(unpacked)
    return unpacked


_WINDOW_BITS = {"gzip": 31, "zlib": 15, "deflate": -15}


def _inflated(payload: bytes, kind: str) -> bytes:
    stream = zlib.decompressobj(_WINDOW_BITS[kind])
    try:
        unpacked = stream.decompress(payload, MAX_DECODED_BYTES + 1)
    except zlib.error as exc:
        raise DecodeError(f"not {kind}: {exc}", reason="compression") from exc
    if len(unpacked) <= MAX_DECODED_BYTES and (not stream.eof or stream.unused_data):
        raise DecodeError(f"not {kind}: cut off, or something follows", reason="compression")
    return unpacked


def _unzstd(payload: bytes) -> bytes:
    unpacker = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
    try:
        with unpacker.stream_reader(io.BytesIO(payload)) as stream:
            unpacked = stream.read(MAX_DECODED_BYTES + 1)
        declared = zstandard.frame_content_size(payload)
    except zstandard.ZstdError as exc:
        raise DecodeError(f"not zstd: {exc}", reason="compression") from exc
    if len(unpacked) <= MAX_DECODED_BYTES and declared not in (-1, len(unpacked)):
        raise DecodeError("not zstd: cut off", reason="compression")
    return unpacked
