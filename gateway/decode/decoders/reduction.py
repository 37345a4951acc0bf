"""Reduction of binary formats' values to those of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction

from gateway.core.errors import DecodeError

# As deep as sensors ever nest, many times over; each level is a frame of Python's stack.
MAX_DEPTH = 64


class Reducer:
    """Copies an item; `budget` bounds it, because shared references can make a small one endless.

    Times become ISO text, bytes hexadecimal text. `reason` is that of the DecodeError it raises.
    """

    def __init__(self, budget: int, reason: str) -> None:
        self._budget = budget
        self._reason = reason

    def reduce(self, item: object, depth: int = 0) -> object:
        """The copy of an item. Raises DecodeError."""
        self._budget -= 1
        if self._budget < 0 or depth > MAX_DEPTH:
            raise DecodeError("nested too deeply", reason=self._reason)
        if isinstance(item, Mapping):
            return {
                name: self.reduce(value, depth + 1)
                for key, value in item.items()
                if (name := _name(key)) is not None
            }
        if isinstance(item, (list, tuple)):
            return [self.reduce(value, depth + 1) for value in item]
        return _scalar(item)


def _name(key: object) -> str | None:
    """A key as text: a whole number in decimal, bytes as the UTF-8 that they mostly are, else hexadecimal."""
    if type(key) is str:
        return key
    if isinstance(key, bytes):
        try:
            return key.decode()
        except UnicodeDecodeError:
            return key.hex()
    return str(key) if type(key) is int else None


def _scalar(item: object) -> object:
    if item is None or isinstance(item, (str, bool, float)):
        return item
    if isinstance(item, bytes):
        return item.hex()
    if isinstance(item, date):
        return item.isoformat()
    if isinstance(item, int):
        return item if -(1 << 63) <= item < 1 << 64 else _real(item)
    return _real(item) if isinstance(item, (Decimal, Fraction)) else None


def _real(number: int | Decimal | Fraction) -> float | None:
    try:
        return float(number)
    except (OverflowError, ValueError):
        return None
