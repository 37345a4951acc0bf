"""Marks results whose sources have holes: sequence numbers that the input does not have.

A hole beside the numbers of a result counts too, since the event may have belonged to it. A window that
closes before the next event of a stream has come knows of no hole behind its last one; it can only close so
early where several streams share a watermark.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import takewhile
from typing import Any

import orjson

from gateway.core.events import Emission
from gateway.core.sequence_sets import Stretch
from gateway.pipeline.replay import line_of

MOST = 1000
"""Holes of a stream that are remembered, the newest: a result is made of new events."""


class Holes:
    """The holes met so far, by stream. `with_quality` are the windows whose results say how good they are."""

    def __init__(self, with_quality: frozenset[str]) -> None:
        self._with_quality = with_quality
        self._of: dict[str, list[Stretch]] = {}

    def note(self, stream: str, hole: Stretch) -> None:
        """Note a hole behind all others of its stream."""
        holes = self._of.setdefault(stream, [])
        holes.append(hole)
        if len(holes) > 2 * MOST:
            del holes[:-MOST]

    def forget(self, stream: str) -> None:
        """Forget the holes of a stream that counts anew."""
        self._of.pop(stream, None)

    def line_of(self, emission: Emission) -> bytes | None:
        """Return the line of a result, with `missing` where its sources have holes; None if it has none."""
        missing = self._missing(emission) if self._of else {}
        if emission.quality is not None and emission.window not in self._with_quality:
            emission = emission._replace(quality=None)
        line = line_of(emission)
        if line is None or not missing:
            return line
        return line[:-2] + b',"missing":' + orjson.dumps(missing) + b"}\n"

    def _missing(self, emission: Emission) -> dict[str, list[Stretch]]:
        if emission.quality is None:
            return {}
        sources: Any = emission.quality["sources"]
        near = {name: self._near(name, *span) for name, span in sources.items() if name in self._of}
        return {name: holes for name, holes in near.items() if holes}

    def _near(self, stream: str, first: int, last: int) -> list[Stretch]:
        holes = self._of[stream]
        at = bisect_left(holes, first - 1, key=_end)
        return [*takewhile(lambda hole: hole[0] <= last + 1, holes[at:])]


def _end(hole: Stretch) -> int:
    return hole[1]
