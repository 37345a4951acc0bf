"""Numbers among values that came from elsewhere."""

from __future__ import annotations

from typing import TypeGuard


def is_number(value: object) -> TypeGuard[int | float]:
    """Return True for a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
