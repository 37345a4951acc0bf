"""Variable byte integers, as in the lengths of packets and properties (MQTT 5, 1.5.5; MQTT 3.1.1, 2.2.3)."""

from __future__ import annotations

MOST_BYTES = 4


def encode(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def read(data: bytes, at: int) -> tuple[int, int] | None:
    """Return the integer that stands at `at`, and where it ends; None where it is cut or too long."""
    value = 0
    for place, byte in enumerate(data[at : at + MOST_BYTES]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    return None


def size_bytes(value: int) -> int:
    """Return how many bytes `encode` takes for it."""
    return 1 + (value > 127) + (value > 16_383) + (value > 2_097_151)
