"""Size of frames and of data in flight, learnt from acknowledgements. Logic only.

- The rate is BBR's delivery rate: what was acknowledged while a frame was under way, over that time; the
  largest of the last seconds counts. When there was nothing more to send, a sample tells how little was
  offered, so it can only raise the rate.
- A frame aims at FRAME_S of the link, and what is under way at a round trip and FRAME_S. So each round trip
  the rate may grow until the link is full, a slow link is never asked for more than it acknowledges in
  seconds, and an urgent event never waits behind more than that.
- A frame larger than any that the connection has taken so far is a probe: nothing goes behind it before its
  answer, so nothing overtakes its halves if it is refused for its size. A probe costs a round trip, so frames
  grow by doubling.
- After a lost connection it begins again with a small frame, half as large each time nothing got through.
- Where connections end time and again while a frame larger than any before is under way, that is too large;
  until one event turns out to be the cause.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

FRAME_S = 1.0
FIRST_FRAME_BYTES = 16 * 1024  # two seconds of a link of 64 kbit/s
LEAST_FRAME_BYTES = 512
_RUN_S = 0.1  # of a limited bandwidth, in one run of messages
_SAMPLES_FOR_S = 10.0
_PROBES_LOST = 3  # in a row, each with its connection: then their size is to blame, and remembered
_NO_PROBE = 0.9  # of the largest frame taken: frames are as large as wanted on the average only
_FIRST_EVENT_BYTES = 64.0  # of one event in a frame, until frames have told
_WEIGHT = 0.25  # of the latest frame in the mean size of an event


class Flight(NamedTuple):
    """Notes on a frame in flight."""

    size_bytes: int
    sent_s: float
    acked_bytes_before: int
    probes: bool = True  # its size tells something about the size of the next frame


class Pace:
    """The pace of one connection, which may send `most_bytes_per_s` whatever the link would carry. All times
    are monotonic seconds."""

    def __init__(self, most_bytes_per_s: float = math.inf) -> None:
        self._most_bytes_per_s = most_bytes_per_s
        self._first_bytes = FIRST_FRAME_BYTES
        self._refused_bytes: int | None = None  # the cloud broker found a larger frame too large
        self._guessed_bytes: int | None = None  # the same, as it seems from connections that ended
        self._event_bytes = _FIRST_EVENT_BYTES
        self._samples: deque[tuple[float, float]] = deque()  # (when, bytes per second), the rates falling
        self._round_trip_s = 0.0  # the shortest seen
        self._acked_bytes = 0
        self._under_way_bytes = 0
        self._taken_bytes = 0  # the largest frame that this connection has taken
        self._probing = False  # a larger one is under way
        self._probe_bytes = 0
        self._lost_probes_bytes: list[int] = []  # in a row
        self._offered_until_bytes = -1  # before so much is acknowledged, samples tell what was offered

    @property
    def rate_bytes_per_s(self) -> float:
        """The rate that the link is known to carry and the connection may use; 0 while it is unknown."""
        return min(self._samples[0][1], self._most_bytes_per_s) if self._samples else 0.0

    @property
    def limit_bytes(self) -> int | None:
        """The largest frame that the broker takes, as far as is known."""
        return min((each for each in (self._refused_bytes, self._guessed_bytes) if each), default=None)

    @property
    def frame_bytes(self) -> int:
        """Largest size of the next frame."""
        wanted = self.rate_bytes_per_s * FRAME_S or min(self._first_bytes, self._most_bytes_per_s * FRAME_S)
        if self._taken_bytes < wanted < 2 * self._taken_bytes:
            wanted = _NO_PROBE * self._taken_bytes
        return int(max(LEAST_FRAME_BYTES, min(wanted, self.limit_bytes or wanted)))

    @property
    def window_bytes(self) -> int:
        """Most bytes in flight before the next frame waits."""
        wanted = self.rate_bytes_per_s * (FRAME_S + max(FRAME_S, self._round_trip_s))
        return int(max(wanted, self.frame_bytes))

    def room_for(self, size_bytes: int) -> bool:
        """Return True if a frame of that size may go now: if most of it fits. One may always be under way,
        and nothing goes behind a probe."""
        if self._probing:
            return False
        return self._under_way_bytes + size_bytes // 2 <= self.window_bytes or not self._under_way_bytes

    def events(self, at_most: int) -> int:
        """Return how many events the next frame should have, from 1 to `at_most`."""
        return max(1, min(at_most, int(self.frame_bytes / self._event_bytes)))

    def run_events(self, at_most: int) -> int:
        """Return how many events may go now as messages of their own, from 0 to `at_most`. One may always be
        under way."""
        room_bytes = min(self.window_bytes - self._under_way_bytes, self._most_bytes_per_s * _RUN_S)
        return max(min(at_most, int(room_bytes / self._event_bytes)), int(not self._under_way_bytes))

    def packed(self, events: int, size_bytes: int) -> None:
        """Note that so many events made a frame of this size."""
        self._event_bytes += _WEIGHT * (size_bytes / events - self._event_bytes)

    def sent_run(self, events: int, size_bytes: int, now_s: float) -> Flight:
        """Events were handed to the network as messages of their own. The result is for `answered`, after
        the last of them."""
        self.packed(events, size_bytes)
        self._under_way_bytes += size_bytes
        return Flight(size_bytes, now_s, self._acked_bytes, probes=False)

    def sent(self, size_bytes: int, now_s: float) -> Flight:
        """A frame was handed to the network. The result is for `answered`."""
        self._under_way_bytes += size_bytes
        self._probing = size_bytes > self._taken_bytes
        self._probe_bytes = size_bytes
        return Flight(size_bytes, now_s, self._acked_bytes)

    def idle(self) -> None:
        """Note that there is nothing more to send, though the window is open."""
        self._offered_until_bytes = self._acked_bytes + self._under_way_bytes

    def answered(self, flight: Flight, now_s: float, *, taken: bool) -> None:
        """The cloud broker took that frame, or refused it."""
        if flight.probes and flight.size_bytes > self._taken_bytes:
            self._probing = False
            self._taken_bytes = flight.size_bytes if taken else self._taken_bytes
            if self._lost_probes_bytes and taken and flight.size_bytes >= min(self._lost_probes_bytes):
                self._lost_probes_bytes.clear()
        only_offered = flight.acked_bytes_before < self._offered_until_bytes
        self._under_way_bytes -= flight.size_bytes
        self._acked_bytes += flight.size_bytes
        took_s = max(now_s - flight.sent_s, 1e-6)
        self._round_trip_s = min(self._round_trip_s or took_s, took_s)
        self._first_bytes = min(FIRST_FRAME_BYTES, 2 * self._first_bytes)
        self._sample((self._acked_bytes - flight.acked_bytes_before) / took_s, now_s, only_offered)

    def too_large(self, size_bytes: int) -> None:
        """The cloud broker refused a frame for its size: stay below."""
        self._refused_bytes = min(self._refused_bytes or size_bytes, size_bytes // 2)

    def not_the_size(self) -> None:
        """Forget guesses about a limit of size: one event was the cause of the closes."""
        self._guessed_bytes = None
        self._lost_probes_bytes.clear()

    def lost(self) -> None:
        """The connection ended. If nothing got through, the next one begins with less."""
        if not self._acked_bytes:
            self._first_bytes = max(LEAST_FRAME_BYTES, self._first_bytes // 2)
        elif self._probing and self._taken_bytes:
            self._lost_probes_bytes.append(self._probe_bytes)
            if len(self._lost_probes_bytes) >= _PROBES_LOST:
                self._guessed_bytes = min(self._lost_probes_bytes) // 2
                self._lost_probes_bytes.clear()
        self._samples.clear()
        self._round_trip_s = 0.0
        self._acked_bytes = self._under_way_bytes = self._taken_bytes = 0
        self._probing = False
        self._offered_until_bytes = -1

    def _sample(self, rate: float, now_s: float, only_offered: bool) -> None:
        samples = self._samples
        if only_offered and rate <= self.rate_bytes_per_s:
            return
        while samples and samples[-1][1] <= rate:
            samples.pop()
        samples.append((now_s, rate))
        while len(samples) > 1 and now_s - samples[0][0] > _SAMPLES_FOR_S:
            samples.popleft()
