"""Announcements of trouble that the pipeline finds: each is said once, as an alert or in the log.

For the writer's thread; what takes a store is called inside a transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gateway.buffer.store import Store
from gateway.core.events import Status
from gateway.windows.counters import Counters

log = logging.getLogger(__name__)

FAILED_ANNOUNCED = "failed_announced"
"""In `meta`: the number of failed events that have been announced."""
SHOWN_NAMES = 10
SLOW_SAMPLE_US = 200.0
"""Slow plugins: at a thousand samples a second, this is a fifth of a core."""

Alert = Callable[[Store, str, str, Mapping[str, Any]], None]
"""Stores an alert: its name, its message, and further fields."""


class Announcements:
    """Remembers what was said."""

    def __init__(self, alert: Alert) -> None:
        self._alert = alert
        self._slow: set[str] = set()
        self._crowded: set[str] = set()

    def rolled_back(self) -> None:
        """Forget the last announcements: they may not have been stored."""
        self._crowded.clear()

    def wrong_clocks(self, store: Store, found: Sequence[str]) -> None:
        """Send one alert for all wrong clocks found since the last tick: a whole fleet may be wrong at
        once."""
        if found:
            message = f"{len(found)} devices' clocks are wrong: {_some(found, len(found))}"
            self._alert(store, "device_clock", message, {})

    def rebirths(self, store: Store, found: Mapping[str, str]) -> None:
        """Sparkplug's edge nodes that are asked for a birth, each with the reason."""
        if found:
            some = _some((f"{node}: {why}" for node, why in found.items()), len(found))
            message = f"{len(found)} edge nodes are asked for a new birth certificate ({some})"
            self._alert(store, "sparkplug", message, {})

    def structured(self, found: Sequence[str]) -> None:
        """Log Sparkplug metrics that are data sets or templates."""
        if found:
            log.warning(
                "Sparkplug metrics that are data sets or templates have no single value: %s; a field can "
                "name a part of them, such as value.rpm",
                _some(found, len(found)),
            )

    def failed(self, store: Store) -> None:
        """Events that became FAILED since the last time; the file knows how many were announced."""
        failed, announced = store.counts["status", Status.FAILED.name], store.meta_int(FAILED_ANNOUNCED)
        if failed > announced:
            events = f"{failed - announced} events failed, {failed} altogether: the cloud refuses them"
            hint = "`gateway buffer list --status failed` shows them, retry or drop settles them"
            self._alert(store, "failed", f"{events}; {hint}", {"events": failed - announced})
        if failed != announced:
            store.set_meta(FAILED_ANNOUNCED, failed)

    def crowded(self, store: Store, windows: Mapping[str, Counters]) -> None:
        """Windows that turn keys away: the readings of these are stored, but in no aggregate."""
        for window, counters in windows.items():
            if counters.keys_rejected and window not in self._crowded:
                self._crowded.add(window)
                full = f"window {window} has {counters.keys} keys and takes no further ones"
                hint = "check its `key`; if it is right, raise `max_keys` or set `ttl`"
                self._alert(store, "max_keys", f"{full}; {hint}", {"window": window, "keys": counters.keys})

    def slow(self, windows: Mapping[str, Counters]) -> None:
        """Windows whose plugin is slow: everything behind them waits."""
        for window, counters in windows.items():
            if window in self._slow or not counters.timed_samples:
                continue
            sample_us = counters.timed_ns / counters.timed_samples / 1000
            if sample_us > SLOW_SAMPLE_US:
                self._slow.add(window)
                log.warning(
                    "window %s needs %.0f µs of processor time per sample; its plugin is slow",
                    window,
                    sample_us,
                )


def _some(names: Iterable[str], count: int) -> str:
    shown = [name for name, _ in zip(names, range(SHOWN_NAMES), strict=False)]
    return ", ".join(shown) + (", …" if count > SHOWN_NAMES else "")
