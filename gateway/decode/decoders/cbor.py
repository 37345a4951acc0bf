"""CBOR (RFC 8949), reduced to what JSON can say."""

from __future__ import annotations

import io

import cbor2

from gateway.core.errors import DecodeError
from gateway.decode.decoders.plain import check_size
from gateway.decode.decoders.reduction import Reducer


def parse_cbor(payload: bytes, _arrival_ms: int = 0) -> object:
    """Parse one CBOR item. Times (tags 0 and 1) become ISO text, byte strings hexadecimal text."""
    check_size(payload)
    stream = io.BytesIO(payload)
    try:
        item = cbor2.CBORDecoder(stream).decode()
    except (cbor2.CBORError, ValueError, ArithmeticError, TypeError, RecursionError, MemoryError) as exc:
        raise DecodeError(f"not CBOR: {exc}", reason="cbor") from exc
    if stream.tell() != len(payload):
        # Most short texts begin with a byte that is a CBOR number: they must not pass for one.
        raise DecodeError("bytes follow the CBOR item", reason="cbor")
    return Reducer(len(payload), "cbor").reduce(item)
