"""Values that a field can have: one number, text or switch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from gateway.core.events import FieldValue

VALUE = "value"
"""The field of a payload that is a single value."""

# Sums and squares of what lies between do not overflow, and nothing that is measured comes near.
_LOWEST, _HIGHEST = -1e100, 1e100
_LOWEST_INT, _HIGHEST_INT = -(1 << 63), (1 << 64) - 1  # what JSON libraries carry


def is_scalar(value: object) -> TypeGuard[str | int | float | bool]:
    """Return True if `value` can be the value of a field: no container, not null, not NaN, no number so large
    that sums or squares of it overflow (or, an integer, that JSON cannot carry it)."""
    kind = type(value)
    if kind is float:
        return _LOWEST < value < _HIGHEST  # type: ignore[operator] # just seen to be a float
    if kind is int:
        return _LOWEST_INT <= value <= _HIGHEST_INT  # type: ignore[operator] # just seen to be an integer
    return kind is str or kind is bool


def scalars_of(item: Mapping[str, object]) -> dict[str, FieldValue]:
    """Return the members of an object that can be values of fields."""
    return {
        name: value  # type: ignore[misc] # seen to be a scalar
        for name, value in item.items()
        if (kind := value.__class__) is str
        or (kind is float and _LOWEST < value < _HIGHEST)  # type: ignore[operator]
        or is_scalar(value)
    }
