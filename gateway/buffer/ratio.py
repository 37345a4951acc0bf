"""Notices when a dictionary fits its family's payloads no longer, and collects what to train the next one on.

It is trained anew when a family takes a quarter more room than it did with the dictionary when that was new.
What it takes once the training has shown that there is nothing better becomes the new measure: payloads that
do not compress are tried once, and not again and again.
"""

from __future__ import annotations

from collections.abc import Sequence

LOOK_EVERY = 5000
"""Payloads between two looks at the ratio."""
WORSE = 1.25
TRAINING_SAMPLES = 1000
MIN_SAMPLE_BYTES = 8
MAX_SAMPLE_BYTES = 8 * 1024  # larger payloads compress well by themselves


class Ratio:
    """Stored bytes by raw bytes of one family since its dictionary came. `expected`: what was measured in the
    training; None where that is not known, then the first look tells."""

    def __init__(self, expected: float | None) -> None:
        self.expected = expected
        self.latest: float | None = None
        """Ratio at the last check."""
        self._payloads = self._raw_bytes = self._stored_bytes = 0
        self._samples: list[bytes] | None = None

    def note(self, payloads: Sequence[bytes], stored_bytes: int) -> None:
        """Count compressed payloads. On the hot path: adds up sizes and seldom keeps a sample."""
        self._payloads += len(payloads)
        self._raw_bytes += sum(map(len, payloads))
        self._stored_bytes += stored_bytes
        if self._samples is not None:
            self._samples += filter(is_sample, payloads)

    def look(self) -> bool:
        """Return True when the dictionary no longer fits. From then on samples are collected."""
        if self._samples is not None:
            return True
        if self._payloads < LOOK_EVERY or not self._raw_bytes:
            return False
        self.latest = min(1.0, self._stored_bytes / self._raw_bytes)
        self._payloads = self._raw_bytes = self._stored_bytes = 0
        if self.expected is None:
            self.expected = self.latest
        if self.latest <= WORSE * self.expected:
            return False
        self._samples = []
        return True

    def take_samples(self) -> list[bytes] | None:
        """Return samples to train the next dictionary on, once there are enough, and forget them."""
        if self._samples is None or len(self._samples) < TRAINING_SAMPLES:
            return None
        samples, self._samples = self._samples[:TRAINING_SAMPLES], None
        # Not looked at again before the training has said what to expect; a crash of it is as good as that.
        self.expected = 1.0
        return samples


def is_sample(payload: bytes) -> bool:
    """Return True if a payload has a suitable size for training."""
    return MIN_SAMPLE_BYTES <= len(payload) <= MAX_SAMPLE_BYTES
