"""The bandwidth, and the messages in a second, that all connections of the bridge share."""

from __future__ import annotations

import math
import threading

from gateway.delivery.token_bucket import TokenBucket


class SharedBucket:
    """A token bucket and a pace of messages for several threads. They may ask at the same moment and all be
    let through: what that is too much, the next ones wait for."""

    def __init__(self, rate_bytes_per_s: int | None, messages_per_s: float | None = None) -> None:
        self._bucket = TokenBucket(rate_bytes_per_s)
        self._message_s = 0.0 if messages_per_s is None else 1 / messages_per_s
        self._next_message_s = 0.0  # services count in each second: so no bursts, but even gaps
        self._lock = threading.Lock()

    @property
    def counts_messages(self) -> bool:
        """True if the number of messages is limited."""
        return self._message_s > 0

    def share_bytes_per_s(self, connections: int) -> float:
        """Return the average rate of one of so many connections."""
        rate = self._bucket.rate_bytes_per_s
        return math.inf if rate is None else rate / connections

    def delay_s(self, now_s: float) -> float:
        """Return the wait before the next frame; 0 when it may go now."""
        with self._lock:
            return max(self._bucket.delay_s(now_s), self._next_message_s - now_s)

    def count_message(self, now_s: float) -> None:
        """A message goes out."""
        if self._message_s:
            with self._lock:
                self._next_message_s = max(self._next_message_s, now_s) + self._message_s

    def spend(self, size_bytes: int) -> None:
        """Count bytes that were sent; a negative number corrects an earlier count."""
        with self._lock:
            self._bucket.spend(size_bytes)
