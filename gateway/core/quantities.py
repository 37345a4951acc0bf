"""Numbers as devices write them in text: `21,5`, `20.6 °C`, `-76 dBm`, `0x1F`.

The rules are few, so that a reader can tell what a text gives:
- A number is a sign, digits, and a decimal point or comma. A single comma is a decimal comma.
- Where both stand there, the last is the decimal one and the others group thousands: `1.234,5`.
- `0x1F` is hexadecimal.
- A unit may follow. It begins with a letter or a sign such as `°` or `%`. Nothing may stand before.
- `k` and `M` alone are no units but factors, and nobody says of what: `3.5k` is no number.
All else is no number.
"""

from __future__ import annotations

import re
from math import isfinite

_FACTORS = frozenset({"k", "M"})

MAX_CHARS = 64
"""Longer than any number with its unit: a bound on what is looked at."""

_SIGNS = str.maketrans({"−": "-", "\u00a0": " ", "\u202f": " "})
_HEX = re.compile(r"([+-]?)0[xX]([0-9A-Fa-f]{1,16})")
_GROUPED = (
    r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:,\d{3})+\.\d+"
    r"|[1-9]\d{0,2}(?:,\d{3}){2,}|[1-9]\d{0,2}(?:\.\d{3}){2,}"
)
_NUMBER = re.compile(rf"([+-]?) ?({_GROUPED}|\d+(?:[.,]\d*)?|[.,]\d+)([eE][+-]?\d{{1,3}}(?!\w))?", re.ASCII)
# Of digits only a last one, as in `m3`; so a time or a date is no number with a unit.
_UNIT = re.compile(r"(?:[^\W\d_]|[°℃℉%‰′″'\"€$£²³])[^\d\s,;:_]*\d?(?:[ /](?:[^\W\d_]|[°℃℉%])+\d?)?")


def number_in(text: str) -> int | float | None:
    """The number that `text` is, with or without a unit, or None. Integers stay exact."""
    text = text[: MAX_CHARS + 1].translate(_SIGNS).strip()
    if len(text) > MAX_CHARS:
        return None
    hexadecimal = _HEX.fullmatch(text)
    if hexadecimal:
        return int(hexadecimal[1] + hexadecimal[2], 16)
    found = _NUMBER.match(text)
    if found is None or text[found.start(2) : found.start(2) + 2] in ("0x", "0X"):
        return None
    unit = text[found.end() :].strip()
    if unit and (unit in _FACTORS or not _UNIT.fullmatch(unit)):
        return None
    return _value(found[1], found[2], found[3] or "")


def _value(sign: str, digits: str, exponent: str) -> int | float | None:
    if digits.isdecimal() and not exponent:
        return int(sign + digits)
    decimal = max(digits.rfind("."), digits.rfind(","))
    if decimal < 0 or digits.count(digits[decimal]) > 1:
        decimal = len(digits)  # several of one kind only group
    whole = digits[:decimal].replace(".", "").replace(",", "")
    number = float(f"{sign}{whole or 0}.{digits[decimal + 1 :] or 0}{exponent}")
    return number if isfinite(number) else None
