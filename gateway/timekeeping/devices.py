"""Wrong clocks of devices: by how much and since when, from device times and times of arrival.

A message takes a while to arrive, sometimes hours (a backlog), but never less than nothing. So of all
messages of one BLOCK_MS the one with the least lag tells the most about the clock, as in NTP's clock filter:
the offset is minus the least lag, too low by the shortest way that a message can take. The drift is the
median slope between the blocks (Theil and Sen), which up to a quarter of bad blocks cannot move far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Literal, NamedTuple

BLOCK_MS = 60_000
BLOCKS = 16
MAX_DEVICES = 10_000
MIN_SPAN_MS = 5 * BLOCK_MS  # a drift over less is noise


FRESH_MS = 60_000
"""A message that took no longer than so beyond the quickest is new; longer ways are those of old readings."""
STEADY_MS = 2_000
STEADY_SHARE = 0.05  # how far two clocks may go apart between two messages, beyond STEADY_MS

Age = Literal["new", "old", "unknown"]


class DeviceClock(NamedTuple):
    """The state of a device's clock. Offsets are positive when it is ahead of the gateway."""

    device: str
    offset_ms: int
    drift_ppm: float | None
    messages: int
    heard_ms: int
    wrong_since_ms: int | None


class WatchedClock:
    """State of a device's clock, as its messages have told it."""

    __slots__ = ("blocks", "heard_ms", "least_ms", "messages", "name", "started_ms", "wrong_since_ms")

    def __init__(self, name: str, now_ms: int, lag_ms: int) -> None:
        self.name = name
        self.blocks: deque[tuple[int, int]] = deque(maxlen=BLOCKS)  # start of the block, least lag in it
        self.started_ms = self.heard_ms = now_ms
        self.least_ms = lag_ms
        self.messages = 0
        self.wrong_since_ms: int | None = None

    def offset_ms(self) -> int:
        """Return the offset, using the block before too: a new block may hold nothing but a backlog."""
        last_ms = self.blocks[-1][1] if self.blocks else self.least_ms
        return -min(self.least_ms, last_ms)

    def drift_ppm(self) -> float | None:
        blocks = [*self.blocks]
        slopes = [
            (lag - later_lag) / (later - start)
            for at, (start, lag) in enumerate(blocks)
            for later, later_lag in blocks[at + 1 :]
        ]
        if not slopes or blocks[-1][0] - blocks[0][0] < MIN_SPAN_MS:
            return None
        return median(slopes) * 1e6


class DeviceClocks:
    """Estimates for up to `max_devices` devices. `wrong_ms`: an offset beyond it counts as wrong."""

    def __init__(self, wrong_ms: int, max_devices: int = MAX_DEVICES) -> None:
        self.unwatched = 0
        """Messages of devices for which there was no room."""
        self._wrong_ms = wrong_ms
        self._max_devices = max_devices
        self._devices: dict[str, WatchedClock] = {}
        self._wrong: set[str] = set()
        self._suspects: dict[str, tuple[int, int]] = {}  # device time and arrival of what may be old
        self._news: list[str] = []

    def observe(self, name: str, device_ms: int, arrival_ms: int) -> WatchedClock | None:
        """A message of the device `name` said `device_ms` and arrived at `arrival_ms`. Returns its clock,
        None where it is not watched."""
        device = self._devices.get(name)
        if device is None:
            if len(self._devices) >= self._max_devices:
                self.unwatched += 1
                return None
            device = self._devices[name] = WatchedClock(name, arrival_ms, arrival_ms - device_ms)
        self.note(device, device_ms, arrival_ms)
        return device

    def note(self, device: WatchedClock, device_ms: int, arrival_ms: int) -> None:
        """`observe` for a clock that the caller has at hand."""
        lag_ms = arrival_ms - device_ms
        device.messages += 1
        device.heard_ms = arrival_ms
        if lag_ms < device.least_ms:  # noqa: PLR1730 - min() takes twice as long, on every message
            device.least_ms = lag_ms
        if not 0 <= arrival_ms - device.started_ms < BLOCK_MS:
            self._close_block(device, arrival_ms, lag_ms)

    def age(self, name: str, device_ms: int, arrival_ms: int) -> Age:
        """Tell a new reading by a clock that is slow from an old reading that is sent again.

        For messages whose device time is far behind. New: it took as long as others of this device, or its
        time has gone on as ours has since the last one that was as slow. Old: this device's clock is known,
        and says that it is. Unknown: nothing is known of its clock yet. Only `observe` what is new.
        """
        device, suspect = self._devices.get(name), self._suspects.get(name)
        if device is not None and arrival_ms - device_ms + device.offset_ms() <= FRESH_MS:
            return "new"
        if suspect is not None and device_ms > suspect[0]:
            passed_ms = arrival_ms - suspect[1]
            if abs(device_ms - suspect[0] - passed_ms) <= STEADY_MS + STEADY_SHARE * passed_ms:
                self._suspects[name] = (device_ms, arrival_ms)
                return "new"
        if suspect is None and len(self._suspects) >= self._max_devices:
            self._suspects.pop(next(iter(self._suspects)))
        if suspect is None or device_ms != suspect[0]:  # the same again is the same reading
            self._suspects[name] = (device_ms, arrival_ms)
        return "unknown" if device is None else "old"

    def newly_wrong(self) -> list[str]:
        """The devices whose clocks were found wrong since the last call."""
        news, self._news = self._news, []
        return news

    def wrong(self) -> list[DeviceClock]:
        """The devices whose clocks are wrong, the worst first."""
        return _worst_first(self._clock(name, self._devices[name]) for name in [*self._wrong])

    def all(self) -> list[DeviceClock]:
        """Return every watched device, the worst first. May be called from another thread."""
        return _worst_first(self._clock(name, device) for name, device in [*self._devices.items()])

    @property
    def watched(self) -> int:
        return len(self._devices)

    def _close_block(self, device: WatchedClock, arrival_ms: int, lag_ms: int) -> None:
        """Close the block: every BLOCK_MS, and when the gateway's own time was set back."""
        device.blocks.append((device.started_ms, device.least_ms))
        began_ms, device.started_ms, device.least_ms = device.started_ms, arrival_ms, lag_ms
        if abs(device.blocks[-1][1]) <= self._wrong_ms:
            device.wrong_since_ms = None
            self._wrong.discard(device.name)
        elif device.wrong_since_ms is None:
            device.wrong_since_ms = began_ms
            self._wrong.add(device.name)
            self._news.append(device.name)

    def _clock(self, name: str, device: WatchedClock) -> DeviceClock:
        return DeviceClock(
            name,
            device.offset_ms(),
            device.drift_ppm(),
            device.messages,
            device.heard_ms,
            device.wrong_since_ms,
        )


def _worst_first(clocks: Iterable[DeviceClock]) -> list[DeviceClock]:
    return sorted(clocks, key=lambda clock: (-abs(clock.offset_ms), clock.device))
