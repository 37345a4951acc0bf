"""Durations, sizes and rates as people write them (`500ms`, `64MiB`, `1MiB/s`) and as code uses them."""

from __future__ import annotations

import re

from gateway.core.errors import UnitError

_DURATION_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE_BYTES = {
    "": 1,
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_COMPOUND = re.compile(r"(?:\s*\d+(?:\.\d+)?\s*(?:ms|s|min|m|h|d)){1,5}\s*")


def parse_duration_ms(text: str | float) -> int:
    """Read `500ms`, `10s`, `5m`, `1h30m`, `2d` as whole milliseconds.

    A bare number has no unit and is refused, except 0, which needs none.
    Raises UnitError with the valid forms.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        if text == 0:
            return 0
        raise UnitError(f"duration {text!r} has no unit", hint=f"write {text}s or {text}ms")
    if isinstance(text, str) and text.strip() == "0":
        return 0
    if not isinstance(text, str) or not _COMPOUND.fullmatch(text):
        raise UnitError(f"{text!r} is not a duration", hint="write 500ms, 10s, 5m, 1h or 2d")
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)", text)
    return round(sum(float(number) * _DURATION_MS[unit] for number, unit in parts))


def parse_size_bytes(text: str | int) -> int:
    """Read `512`, `64KiB`, `2GiB`, `10MB` as bytes. Raises UnitError with the valid forms."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in _SIZE_BYTES:
        raise UnitError(f"{text!r} is not a size", hint="write 512, 64KiB, 10MB or 2GiB")
    return round(float(match[1]) * _SIZE_BYTES[match[2]])


def parse_rate_bytes_per_s(text: str) -> int:
    """Read `1MiB/s` or `64kbit/s` as bytes per second. Raises UnitError with the valid forms."""
    hint = "write 1MiB/s, 500kB/s or 64kbit/s"
    body, slash, per = text.partition("/") if isinstance(text, str) else ("", "", "")
    if slash != "/" or per.strip() != "s":
        raise UnitError(f"{text!r} is not a rate", hint=hint)
    bits = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKM]?)bit\s*", body)
    if bits:
        return round(float(bits[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6}[bits[2]] / 8)
    try:
        return parse_size_bytes(body)
    except UnitError as exc:
        raise UnitError(f"{text!r} is not a rate", hint=hint) from exc


def parse_rate_per_s(text: str) -> float:
    """Read `100/s` or `30/min`. Raises UnitError with the valid form."""
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(s|min)\s*", text) if isinstance(text, str) else None
    if found is None:
        raise UnitError(f"{text!r} is not a rate of messages", hint="write 100/s or 30/min")
    return int(found[1]) / (60 if found[2] == "min" else 1)


def format_bytes(count: float) -> str:
    """`1536` → `1.5 KiB`; for people, never for parsing."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_duration(seconds: float) -> str:
    """`5400` → `1h 30m`; for people, never for parsing."""
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, _ = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{days}d" if days else "", f"{hours}h" if hours else "", f"{minutes}m" if minutes else ""]
    return " ".join(part for part in parts if part)


def parse_share(text: str | float) -> float:
    """Read `10%` as 0.1; a number from 0 to 1 is a share already. Raises UnitError with the valid form."""
    if isinstance(text, (int, float)) and not isinstance(text, bool) and 0 <= text <= 1:
        return float(text)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text) if isinstance(text, str) else None
    if found is None or float(found[1]) > 100:
        raise UnitError(f"{text!r} is not a share", hint="write 10% or 50%")
    return float(found[1]) / 100
