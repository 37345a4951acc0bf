"""Values of a sample's fields: a finite number, a word for a key, or nothing at all."""

from __future__ import annotations

import re
from math import isfinite

from gateway.core.events import FieldValue

_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
_LIMIT = 1e100
"""Sums and squares of what lies below do not overflow, and nothing that is measured comes near."""


def number(value: FieldValue) -> float | None:
    """The finite number that `value` is, or None: absent, null, empty, text, NaN and infinity are misses.

    True and False are 1 and 0. Text that is a number counts as one (`"21.5"`), because many devices
    send their readings in quotes; digit separators (`"1_000"`) are text. The bounds in quotes are those
    without: a route takes no number beyond.
    """
    if value is None or (isinstance(value, str) and "_" in value):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError, TypeError):  # TypeError: a list or an object where a value should be
        return None
    if isinstance(value, str) and abs(found) >= _LIMIT:
        return None
    return found if isfinite(found) else None


def exact_number(value: FieldValue) -> float | None:
    """Return the value as `number` does, but keep a whole number of 64 bits as an int: a float is exact up to
    2^53 only."""
    whole = int(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else value
    if isinstance(whole, int) and not isinstance(whole, bool) and -(1 << 63) <= whole < 1 << 64:
        return whole
    return number(value)


def number_or_text(value: FieldValue) -> float | None:
    """Return the value as `number` does, but NaN for text that is no number: for plugins that read the text
    themselves."""
    found = number(value)
    if found is None and isinstance(value, str) and value:
        return float("nan")
    return found


def word(value: FieldValue) -> str | None:
    """Return the text of `value` as a part of a key, or None where it has none."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and isfinite(value):
        return str(value)
    return None
