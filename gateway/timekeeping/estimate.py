"""Offset and drift of one clock against another, out of samples that are each off by a little.

The method is weighted least squares over the last samples, as in chrony's `sourcestats`: a straight line
through (time, offset), each sample weighted by the inverse square of its uncertainty. Three things keep it
sound. A prior says that a quartz is within 50 ppm, so that the line is defined from the first sample on. A
runs test drops the oldest samples while their residuals do not look random, which means that the line has
bent (temperature, a smeared leap second). A sample far off the line is set aside; only when several in a row
agree that the line is wrong, a new one is begun with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

PRIOR_DRIFT = 50e-6  # a cheap quartz, and the default that ntpd and chrony reckon with
WANDER = 1e-6  # how much the drift itself may change unseen: chrony's `maxclockerror`
MAX_SAMPLES = 64
RUNS_TEST_FROM = 8  # below, a runs test cannot tell anything
LEAST_SCALE = 1e-6  # a scatter of a thousandth of what a source says
MISFIT_SIGMAS = 4.0
MISFIT_FLOOR_S = 0.001


class OffsetSample(NamedTuple):
    """A measurement: the other clock was ahead of ours by `offset_s` when ours showed `at_s`.

    `uncertainty_s` bounds the error. After `fresh_s` without another one the source counts as gone.
    """

    at_s: float
    offset_s: float
    uncertainty_s: float
    fresh_s: float = 10.0


class Estimate(NamedTuple):
    """An estimate of a clock at `at_s`. `drift` is in seconds per second, positive when it gains."""

    at_s: float
    offset_s: float
    drift: float
    uncertainty_s: float


class _Line(NamedTuple):
    """A fitted line through `samples`, and the covariance of its offset at `at_s` and its drift."""

    at_s: float
    offset_s: float
    drift: float
    var_offset: float
    var_drift: float
    covariance: float
    systematic_s: float

    def offset_at(self, at_s: float) -> float:
        return self.offset_s + self.drift * (at_s - self.at_s)


class Estimator:
    """Keeps the samples of one source and the line through them.

    `patience` samples in a row must disagree with the line before it is given up.
    """

    def __init__(self, patience: int = 3) -> None:
        self.samples: list[OffsetSample] = []
        self.restarts = 0
        self._patience = patience
        self._misfits: list[OffsetSample] = []
        self._line: _Line | None = None

    def add(self, sample: OffsetSample) -> bool:
        """Take in a sample; False when it was set aside because it does not fit."""
        if self._line is None or self._fits(sample):
            self._misfits.clear()
            self.samples = [*self.samples, sample][-MAX_SAMPLES:]
            self._fit()
            return True
        self._misfits.append(sample)
        if len(self._misfits) < self._patience:
            return False
        self.restart(self._misfits)
        return True

    def restart(self, samples: Sequence[OffsetSample] = ()) -> None:
        """Forget the line, because one of the two clocks was set; begin a new one with `samples`."""
        self.restarts += 1
        self.samples, self._misfits, self._line = [], [], None
        for sample in samples:
            if self._line is None or self._fits(sample):
                self.samples.append(sample)
                self._fit()

    @property
    def newest(self) -> OffsetSample | None:
        """The newest sample that fitted."""
        return self.samples[-1] if self.samples else None

    def at(self, at_s: float) -> Estimate | None:
        """Return the estimate for `at_s`; its uncertainty grows with the time since the last sample."""
        line = self._line
        if line is None:
            return None
        ahead_s = at_s - line.at_s
        variance = line.var_offset + 2 * line.covariance * ahead_s + line.var_drift * ahead_s * ahead_s
        uncertainty_s = line.systematic_s + 2 * math.sqrt(max(variance, 0.0)) + WANDER * max(ahead_s, 0.0)
        return Estimate(at_s, line.offset_at(at_s), line.drift, uncertainty_s)

    def is_fresh(self, at_s: float) -> bool:
        """Return True if the source still speaks."""
        newest = self.newest
        return newest is not None and at_s - newest.at_s <= newest.fresh_s

    def _fits(self, sample: OffsetSample) -> bool:
        expected = self.at(sample.at_s)
        if expected is None:
            return True
        allowed_s = MISFIT_SIGMAS * (expected.uncertainty_s + sample.uncertainty_s) + MISFIT_FLOOR_S
        return abs(sample.offset_s - expected.offset_s) <= allowed_s

    def _fit(self) -> None:
        while True:
            self._line = line = _fit_line(self.samples)
            residuals = [sample.offset_s - line.offset_at(sample.at_s) for sample in self.samples]
            if len(residuals) < RUNS_TEST_FROM or looks_random(residuals):
                return
            del self.samples[: max(1, len(self.samples) // 4)]


def _fit_line(samples: Sequence[OffsetSample]) -> _Line:
    """Weighted least squares; the origin is the newest sample.

    Uncertainties are bounds of the whole error, most of which is the same for all samples of a source. So a
    first fit shows how much the samples really scatter, and the prior on the drift is weighed against that.
    """
    scale = _scale(samples, _solve(samples, LEAST_SCALE))
    return _solve(samples, scale)


def _solve(samples: Sequence[OffsetSample], scale: float) -> _Line:
    """The line, when variances are `scale` times what the uncertainties say."""
    origin_s, base_s = samples[-1].at_s, samples[-1].offset_s
    weight = first = second = offset = product = 0.0
    for sample in samples:
        w = 1.0 / max(sample.uncertainty_s, 1e-9) ** 2
        t, o = sample.at_s - origin_s, sample.offset_s - base_s  # small numbers keep their digits
        weight, first, second = weight + w, first + w * t, second + w * t * t
        offset, product = offset + w * o, product + w * t * o
    second += scale / PRIOR_DRIFT**2
    determinant = weight * second - first * first
    return _Line(
        origin_s,
        base_s + (second * offset - first * product) / determinant,
        (weight * product - first * offset) / determinant,
        scale * second / determinant,
        scale * weight / determinant,
        -scale * first / determinant,
        min(sample.uncertainty_s for sample in samples),
    )


def _scale(samples: Sequence[OffsetSample], line: _Line) -> float:
    """The variance of the samples around the line, in units of what their uncertainties say."""
    if len(samples) < 4:
        return 1.0
    squares = sum(
        ((sample.offset_s - line.offset_at(sample.at_s)) / max(sample.uncertainty_s, 1e-9)) ** 2
        for sample in samples
    )
    return min(1.0, max(LEAST_SCALE, squares / (len(samples) - 2)))


def looks_random(residuals: Sequence[float]) -> bool:
    """The runs test of Wald and Wolfowitz: do the signs change about as often as chance would have it?"""
    signs = [residual >= 0 for residual in residuals]
    ups = sum(signs)
    downs = len(signs) - ups
    if not ups or not downs:
        return True  # all zero: a perfect line
    runs = 1 + sum(a != b for a, b in pairwise(signs))
    count = len(signs)
    expected = 2 * ups * downs / count + 1
    variance = (expected - 1) * (expected - 2) / (count - 1)
    return runs >= expected - 2.5 * math.sqrt(max(variance, 0.0))
