"""MessagePack, reduced to what JSON can say."""

from __future__ import annotations

import msgpack

from gateway.core.errors import DecodeError
from gateway.decode.decoders.plain import check_size
from gateway.decode.decoders.reduction import Reducer

_TIMESTAMP_AS_DATETIME = 3


def _no_value(_code: int, _content: bytes) -> None:
    """Return None: only the application knows the meaning of its own extension."""


def parse_msgpack(payload: bytes, _arrival_ms: int = 0) -> object:
    """Parse one MessagePack item. Timestamps become ISO text, bytes hexadecimal text; other extensions are
    null."""
    check_size(payload)
    try:
        item = msgpack.unpackb(
            payload, strict_map_key=False, timestamp=_TIMESTAMP_AS_DATETIME, ext_hook=_no_value
        )
    except (msgpack.UnpackException, ValueError, ArithmeticError, TypeError, RecursionError) as exc:
        raise DecodeError(f"not MessagePack: {exc}", reason="msgpack") from exc
    if isinstance(item, int) and len(payload) == 1:
        # Every ASCII character is a number of MessagePack's: a text must not pass for one.
        raise DecodeError("one byte is no MessagePack document", reason="msgpack")
    return Reducer(len(payload), "msgpack").reduce(item)
