"""Output of windows: identities, and the JSON of aggregates and of dropped readings."""

from __future__ import annotations

import orjson

from gateway.core.events import Emission

Bounds = tuple[int, int]

MANY = 1000
"""Emissions in one list after which it is emptied before the next key has its turn: one watermark may close
the windows of a million keys."""


def identity(window: str, key: str, bounds: str, kind: str, revision: int) -> str:
    """Equal for the same output before and after a restart, different for any two outputs.

    `bounds` is `start/end`, or the number of the firing for windows without a grid. On-time results and
    corrections share one count of revisions, early results have their own.
    """
    series = "early" if kind == "early" else "final"
    return "\x1f".join((window, key, bounds, series, str(revision)))


def end_and_key(emission: Emission) -> tuple[int, str]:
    """The order of windows that fire together."""
    return emission.event_time_ms, emission.key


def emission_json(emission: Emission) -> dict[str, object]:
    """The aggregate payload, or for kind `dropped` what was dropped and why."""
    if emission.kind == "dropped":
        return {
            "window": emission.window,
            "key": emission.key,
            "kind": "dropped",
            "event_time_ms": emission.event_time_ms,
            "reason": emission.reason,
            "dropped": emission.result,
        }
    fields: dict[str, object] = {
        "window": emission.window,
        "key": emission.key,
        "start_ms": emission.start_ms,
        "end_ms": emission.end_ms,
        "kind": emission.kind,
        "revision": emission.revision,
        "count": emission.count,
        "result": emission.result,
        "replaces": [list(bounds) for bounds in emission.replaces],
    }
    if emission.unit is not None:
        fields["unit"] = emission.unit
    if emission.partial is not None:
        fields["partial"] = orjson.Fragment(emission.partial)
    if emission.quality is not None:
        fields["quality"] = emission.quality
    return fields
