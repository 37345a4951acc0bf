"""Variable byte integers, against the table of the standard (MQTT 5, 1.5.5)."""

from __future__ import annotations

import pytest

from gateway.mqtt.variable_integers import encode, read, size_bytes


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (16_383, b"\xff\x7f"),
        (16_384, b"\x80\x80\x01"),
        (2_097_151, b"\xff\xff\x7f"),
        (2_097_152, b"\x80\x80\x80\x01"),
        (268_435_455, b"\xff\xff\xff\x7f"),
    ],
)
def test_the_ends_of_each_size_are_those_of_the_standard(value: int, encoded: bytes) -> None:
    assert (encode(value), size_bytes(value)) == (encoded, len(encoded))
    assert read(b"x" + encoded + b"y", 1) == (value, 1 + len(encoded))


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\x80\x80\x80\x01"]
)
def test_what_is_cut_or_too_long_is_none(data: bytes) -> None:
    assert read(data, 0) is None
