"""The parameters of one window, validated once and never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

WindowType = Literal["tumbling", "hopping", "calendar", "session", "global", "count"]


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """A window of the configuration. All durations are milliseconds; None means not set.

    A window reads the samples of `route`, or of every topic that `topic` (a template) matches.
    `key` is a template over named topic levels and sample fields; an empty one makes a single key `all`.
    """

    name: str
    type: WindowType
    plugin: str = "stats"
    options: Mapping[str, object] = field(default_factory=dict)
    fields: tuple[str, ...] = ("value",)
    key: str = ""
    route: str | None = None
    topic: str | None = None
    size_ms: int | None = None
    slide_ms: int | None = None
    gap_ms: int | None = None
    offset_ms: int = 0
    every: Literal["hour", "day", "week", "month", "year"] | None = None  # of a calendar window
    timezone: str | None = None  # of a calendar window
    week_starts: str | None = None  # of a calendar window of weeks: a day's English name
    count: int | None = None  # of a count window
    trigger_count: int | None = None  # of a global window
    trigger_every_ms: int | None = None  # of a global window
    mode: Literal["accumulating", "discarding"] = "accumulating"
    out_of_orderness_ms: int = 0
    allowed_lateness_ms: int = 0
    idle_timeout_ms: int | None = None
    idle_learns: bool = False  # the timeout is the least one: each source's own rhythm may make it longer
    watermark: Literal["shared", "per_key"] = "shared"
    max_future_skew_ms: int | None = None
    early_every_ms: int | None = None
    early_count: int | None = None
    compute: Mapping[str, str] = field(default_factory=dict)
    corrections: Literal["at_once", "every", "off"] = "at_once"
    corrections_every_ms: int = 0
    max_keys: int | None = None
    max_keys_policy: Literal["drop", "sample"] = "drop"
    ttl_ms: int | None = None
    on_change: Literal["drop", "replay"] = "drop"
    retain: bool = False
    partial: bool = False  # results carry their accumulators
    quality: bool = False  # results say what is known of their readings
    merge: bool = False  # reads such results
    scope: Literal["gateway", "fleet"] = "gateway"  # of a key, where several gateways are at hand
    units: Mapping[str, str] = field(default_factory=dict)
    """By field, where one is known."""
    forward: bool = True
    priority: int = 2

    @property
    def read_fields(self) -> tuple[str, ...]:
        """The fields of a sample that it reads; `fields` are those of the readings behind partial results."""
        return ("partial",) if self.merge else self.fields

    @property
    def unit(self) -> object:
        """The unit of its results: a text, by field where there are several, or None."""
        if len(self.fields) > 1:
            return dict(self.units) or None
        return self.units.get(self.fields[0])

    @property
    def has_order(self) -> bool:
        """True if its results are about spans of event time, one older than the other. Count and global
        windows fire by arrival."""
        return self.type not in ("count", "global")
