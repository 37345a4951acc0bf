"""Merging of partial results: what several gateways have of one window becomes one accumulator.

With `publish: {partial: true}` an aggregate carries the accumulator that it was made of. A window with
`merge: true` reads such aggregates in place of readings. It keeps the newest revision of each source and
window, so an aggregate that comes again, late or out of order changes nothing. One window may gather several
of theirs: minutes into an hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from gateway.core.events import FieldValue, Reading
from gateway.windows.plugin import Accumulator, CombineFn, Output
from gateway.windows.quality import Quality, merged

FIELDS = ("partial", "source", "revision", "kind", "count")
"""Fields of a sample that is an aggregate; `partial` is the accumulator as JSON text, and is read."""

Contribution = list[Any]
"""[is final, revision, number of readings, accumulator], and where it has them quality and unit."""


class MergedPartials:
    """The plugin of a window, applied to accumulators. Its own has the contributions, by START_MS/SOURCE."""

    accepts_text = True

    def __init__(self, plugin: CombineFn) -> None:
        self._plugin = plugin
        if hasattr(plugin, "report"):
            self.report = plugin.report
        if hasattr(plugin, "extract_between"):
            self.extract_between = partial(self._extract_between, plugin.extract_between)

    def create_accumulator(self) -> dict[str, Contribution]:
        return {}

    def add_input(self, accumulator: dict[str, Contribution], reading: Reading) -> dict[str, Contribution]:
        """Raises ValueError for what is no aggregate with a partial result; whatever the plugin raises for
        the accumulator of another plugin."""
        source, contribution = _read(reading.fields)
        name = f"{reading.time_ms}/{source}"
        known = accumulator.get(name)
        if known is None or known[:2] < contribution[:2]:
            self._plugin.extract_output(self._plugin.merge_accumulators([contribution[3]]))
            accumulator[name] = contribution
        return accumulator

    def merge_accumulators(self, accumulators: Sequence[dict[str, Contribution]]) -> dict[str, Contribution]:
        merged: dict[str, Contribution] = {}
        for one in accumulators:
            for name, contribution in one.items():
                if name not in merged or merged[name][:2] < contribution[:2]:
                    merged[name] = contribution
        return merged

    def extract_output(self, accumulator: dict[str, Contribution]) -> Output:
        return self._plugin.extract_output(self._whole(accumulator))

    def count_of(self, accumulator: dict[str, Contribution]) -> int:
        """Number of readings behind all contributions."""
        return sum(contribution[2] for contribution in accumulator.values())

    def quality_of(self, accumulator: dict[str, Contribution], own: Quality) -> Quality:
        """The quality of all contributions together."""
        named = [(_order(name)[1], contribution[4:5]) for name, contribution in accumulator.items()]
        return merged(((source, told[0] if told else None) for source, told in named), own.tally)

    def unit_of(self, accumulator: dict[str, Contribution]) -> object:
        """The unit that all contributions have; None where they differ, or say nothing."""
        units = [contribution[5] if len(contribution) > 5 else None for contribution in accumulator.values()]
        return units[0] if units and all(unit == units[0] for unit in units) else None

    def partial_of(self, accumulator: dict[str, Contribution]) -> Accumulator:
        """The accumulator of the plugin itself, for a window further up."""
        return self._whole(accumulator)

    def _extract_between(
        self, extract: Any, accumulator: dict[str, Contribution], start_ms: int, end_ms: int
    ) -> Output:
        return extract(self._whole(accumulator), start_ms, end_ms)

    def _whole(self, accumulator: dict[str, Contribution]) -> Accumulator:
        if not accumulator:
            return self._plugin.create_accumulator()
        return self._plugin.merge_accumulators(
            [accumulator[name][3] for name in sorted(accumulator, key=_order)]
        )


def _order(name: str) -> tuple[int, str]:
    """The order of time, and within one window of sources."""
    start_ms, _, source = name.partition("/")
    return int(start_ms), source


def _read(fields: Mapping[str, FieldValue]) -> tuple[str, Contribution]:
    source, revision, count = fields.get("source"), fields.get("revision"), fields.get("count")
    text = fields.get("partial")
    if not isinstance(source, str) or type(revision) is not int or type(count) is not int:
        raise ValueError("no aggregate: it needs source, revision and count")
    if not isinstance(text, str):
        raise ValueError("it has no partial result; set publish: {partial: true} at its gateway")
    contribution = [fields.get("kind") != "early", revision, count, orjson.loads(text)]
    quality, (unit,) = _json(fields.get("quality"), None), _json(fields.get("unit"), [None])
    if unit is not None:
        contribution += [quality, unit]
    elif quality is not None:
        contribution.append(quality)
    return source, contribution


def _json(text: FieldValue, default: Any) -> Any:
    return orjson.loads(text) if isinstance(text, str) else default
