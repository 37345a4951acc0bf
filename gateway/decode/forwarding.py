"""Choice of the messages that go to the cloud; the others stay at the edge until they are requested.

A message that could not be decoded goes wherever its route does not keep everything: it is unknown what is
in it. What was forwarded last is known in memory only, so after a start each stream is forwarded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.core.events import FieldValue, Sample
from gateway.decode.formulas import Formula

MOST_STREAMS = 100_000
"""Limit of remembered streams; every message of any further stream is forwarded."""


@dataclass(frozen=True)
class ForwardSpec:
    """Rules for forwarding: all messages, none, those that have changed, or those that meet `where`.

    A field of `least_changes` has changed when it differs by at least that amount from what was forwarded
    last; text and switches when they differ at all. After `every_ms` the next message goes up in any case.
    """

    everything: bool = True
    least_changes: Mapping[str, float] = field(default_factory=dict)
    every_ms: int | None = None
    where: str | None = None

    @property
    def nothing(self) -> bool:
        return not (self.everything or self.least_changes or self.where)


class Forwarding:
    """Decides for the messages of one route. For one thread."""

    def __init__(self, spec: ForwardSpec) -> None:
        self._spec = spec
        self._where = Formula(spec.where) if spec.where else None
        self._last: dict[str, tuple[int, dict[str, FieldValue]]] = {}

    def keeps(
        self, topic: str, levels: Mapping[str, str], samples: Sequence[Sample], arrival_ms: int
    ) -> bool:
        """Return True if a message with those readings stays at the edge."""
        if self._spec.everything:
            return False
        if self._spec.nothing:
            return True
        if not samples:
            return False
        if self._where is not None:
            return not any(self._where(sample.fields, levels) is True for sample in samples)
        return not self._has_changed(topic, samples, arrival_ms)

    def _has_changed(self, topic: str, samples: Sequence[Sample], arrival_ms: int) -> bool:
        at_ms, last = self._last.get(topic, (None, {}))
        now: dict[str, FieldValue] = {}
        for sample in samples:
            now |= {name: value for name, value in sample.fields.items() if name in self._spec.least_changes}
        every_ms = self._spec.every_ms
        due = at_ms is None or (every_ms is not None and not 0 <= arrival_ms - at_ms < every_ms)
        changed = due or any(
            _differs(last.get(name), sample.fields.get(name), least)
            for sample in samples
            for name, least in self._spec.least_changes.items()
        )
        if changed and (topic in self._last or len(self._last) < MOST_STREAMS):
            self._last[topic] = arrival_ms, last | now
        return changed


def _differs(before: FieldValue, after: FieldValue, least: float) -> bool:
    if after is None:
        return False  # the message does not speak of it
    if isinstance(before, (int, float)) and isinstance(after, (int, float)) and type(after) is not bool:
        return abs(after - before) >= least
    return before != after
