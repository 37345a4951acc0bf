"""CBOR (RFC 8949), reduced to what JSON can say."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction

import cbor2

from gateway.core.errors import DecodeError
from gateway.decode.decoders.plain import check_size

# As deep as sensors ever nest, many times over; each level is a frame of Python's stack.
MAX_DEPTH = 64


def parse_cbor(payload: bytes, _arrival_ms: int = 0) -> object:
    """One CBOR item. Times (tags 0 and 1) become ISO text, byte strings hexadecimal text."""
    check_size(payload)
    stream = io.BytesIO(payload)
    try:
        item = cbor2.CBORDecoder(stream).decode()
    except (cbor2.CBORError, ValueError, ArithmeticError, TypeError, RecursionError, MemoryError) as exc:
        raise DecodeError(f"not CBOR: {exc}", reason="cbor") from exc
    if stream.tell() != len(payload):
        # Most short texts begin with a byte that is a CBOR number: they must not pass for one.
        raise DecodeError("bytes follow the CBOR item", reason="cbor")
    return _Reducer(len(payload)).reduce(item, 0)


class _Reducer:
    """Copies an item; `budget` bounds it, because shared references can make a small one endless."""

    def __init__(self, budget: int) -> None:
        self._budget = budget

    def reduce(self, item: object, depth: int) -> object:
        self._budget -= 1
        if self._budget < 0 or depth > MAX_DEPTH:
            raise DecodeError("nested too deeply", reason="cbor")
        if isinstance(item, Mapping):
            return {
                str(key): self.reduce(value, depth + 1)
                for key, value in item.items()
                if type(key) in (str, int)
            }
        if isinstance(item, (list, tuple)):
            return [self.reduce(value, depth + 1) for value in item]
        return _scalar(item)


def _scalar(item: object) -> object:
    if item is None or isinstance(item, (str, bool, float)):
        return item
    if isinstance(item, bytes):
        return item.hex()
    if isinstance(item, date):
        return item.isoformat()
    if isinstance(item, int):
        return item if item.bit_length() < 64 else _real(item)
    return _real(item) if isinstance(item, (Decimal, Fraction)) else None


def _real(number: int | Decimal | Fraction) -> float | None:
    try:
        return float(number)
    except (OverflowError, ValueError):
        return None
