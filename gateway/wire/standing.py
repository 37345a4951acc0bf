"""Order of two results of one window and key: which is about the newer window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_MARK = b',"superseded":true}'


class Standing(NamedTuple):
    """The order of a result among those of its window and key."""

    start_ms: int
    end_ms: int
    is_final: bool
    """An early result is not."""
    revision: int

    def is_behind(self, other: Standing) -> bool:
        """Return True if this result must not take the place of `other`.

        One window is older than another when it begins *and* ends before it. Where one lies inside of the
        other, a session has grown or the configuration has another size: then the later result counts.
        """
        if (self.start_ms, self.end_ms) == (other.start_ms, other.end_ms):
            return (self.is_final, self.revision) < (other.is_final, other.revision)
        return self.start_ms < other.start_ms and self.end_ms < other.end_ms


def standing(aggregate: Mapping[str, Any]) -> Standing | None:
    """Return the order of an aggregate; None when its window has no bounds."""
    start_ms, end_ms = aggregate["start_ms"], aggregate["end_ms"]
    if start_ms is None or end_ms is None:
        return None
    return Standing(start_ms, end_ms, aggregate["kind"] != "early", aggregate["revision"])


def superseded(payload: bytes) -> bytes:
    """The payload of an aggregate, with the mark that a newer window has been published."""
    return payload[:-1] + _MARK
