"""Token bucket: how much may be sent now. Time comes in as an argument."""

from __future__ import annotations


class TokenBucket:
    """Allows `rate_bytes_per_s` on average (at least 1; None: any), in bursts of one second's worth.

    A frame may go as long as there is no debt, whatever its size, so a large one passes too: it leaves a
    debt, and the next waits until that is paid.
    """

    def __init__(self, rate_bytes_per_s: int | None) -> None:
        self._rate = None if rate_bytes_per_s is None else max(1, rate_bytes_per_s)
        self._tokens = float(self._rate or 0)
        self._updated_s: float | None = None

    @property
    def rate_bytes_per_s(self) -> int | None:
        """The average; None: any."""
        return self._rate

    def delay_s(self, now_s: float) -> float:
        """Return the wait before the next frame; 0 when it may go now."""
        if self._rate is None:
            return 0.0
        if self._updated_s is not None:
            self._tokens = min(self._rate, self._tokens + (now_s - self._updated_s) * self._rate)
        self._updated_s = now_s
        return max(0.0, -self._tokens / self._rate)

    def spend(self, size_bytes: int) -> None:
        """A frame of this size has gone out."""
        if self._rate is not None:
            self._tokens -= size_bytes
