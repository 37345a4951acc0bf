"""Text of others, made safe to print on a terminal."""

from __future__ import annotations

import re

# C0 and C1 controls, and those that turn the direction of what follows: topics and device names may hold any.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """`text` with each control character as its escape, such as \\x07."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)
