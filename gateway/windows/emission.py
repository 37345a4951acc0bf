"""Output of windows: identities, and the JSON of aggregates and of dropped readings."""

from __future__ import annotations

import orjson

from gateway.core.events import Emission

Bounds = tuple[int, int]

_DROPPED = b'{"window":%b,"key":%b,"kind":"dropped","event_time_ms":%d,"reason":%b,"dropped":%b}'
_AGGREGATE = (
    b'{"window":%b,"key":%b,"start_ms":%b,"end_ms":%b,"kind":"%b","revision":%d,"count":%d,"result":%b,'
    b'"replaces":%b%b}'
)

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


def emission_json(emission: Emission, source: str = "") -> bytes:
    """The aggregate payload, or for kind `dropped` what was dropped and why. `source` names the gateway."""
    dumps = orjson.dumps
    names = (dumps(emission.window), dumps(emission.key))
    result = emission.encoded or dumps(emission.result)
    if emission.kind == "dropped":
        return _DROPPED % (*names, emission.event_time_ms, dumps(emission.reason), result)
    start_ms, end_ms = emission.start_ms, emission.end_ms
    return _AGGREGATE % (
        *names,
        b"null" if start_ms is None else b"%d" % start_ms,
        b"null" if end_ms is None else b"%d" % end_ms,
        emission.kind.encode(),
        emission.revision,
        emission.count,
        result,
        dumps(emission.replaces) if emission.replaces else b"[]",
        _more(emission, source),
    )


def _more(emission: Emission, source: str) -> bytes:
    """The members that few windows have."""
    unit, partial, quality = emission.unit, emission.partial, emission.quality
    if unit is None and partial is None and quality is None:
        return b""
    more = b"" if unit is None else b',"unit":%b' % orjson.dumps(unit)
    if partial is not None:
        more += b',"partial":%b' % partial
    if quality is not None:
        more += b',"quality":%b' % orjson.dumps(quality)
    if partial is not None and source:
        more += b',"source":%b' % orjson.dumps(source)
    return more
