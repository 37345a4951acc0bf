"""The sources of time that a configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.timekeeping.sources.gps import GpsSource
from gateway.timekeeping.sources.ntp import NtpSource
from gateway.timekeeping.sources.ptp import ptp_source
from gateway.timekeeping.sources.source import Reference, TimeSource


class SourceSpec(NamedTuple):
    """NTP servers and gpsd as (host, port), PTP as the path of a device or of ptp4l's socket."""

    ntp: Sequence[tuple[str, int]] = ()
    ptp: Path | None = None
    gps: tuple[str, int] | None = None
    min_poll_s: float = 64.0


def make_sources(spec: SourceSpec, reference: Reference) -> list[TimeSource]:
    """Return all sources, none of them asked yet."""
    sources: list[TimeSource] = [NtpSource(*server, spec.min_poll_s, reference) for server in spec.ntp]
    if spec.ptp is not None:
        sources.append(ptp_source(spec.ptp, reference))
    if spec.gps is not None:
        sources.append(GpsSource(*spec.gps, reference))
    return sources
