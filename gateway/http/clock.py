"""Time of the gateway and clocks of its devices, for /clock and for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.status.gateway_status import GatewayStatus
from gateway.timekeeping.devices import DeviceClock

SHOWN_DEVICES = 1000
METRIC_DEVICES = 50  # a label per device: the worst ones, not the whole fleet


def clock_status(gateway: GatewayStatus) -> dict[str, Any]:
    """The gateway's own time: state, source, uncertainty, drift, and every source."""
    status = gateway.timekeeper.status()
    sources = [
        {
            "name": source.name,
            "role": source.role,
            "offset_s": None if source.estimate is None else source.estimate.offset_s,
            "drift_ppm": None if source.estimate is None else source.estimate.drift * 1e6,
            "uncertainty_s": None if source.estimate is None else source.estimate.uncertainty_s,
            "samples": source.samples,
            "silent_s": source.silent_s,
            "problem": status.problems.get(source.name, ""),
        }
        for source in status.sources
    ]
    known = {source["name"] for source in sources}
    for name, problem in status.problems.items():
        if name not in known:
            sources.append({"name": name, "role": "silent", "problem": problem})
    return status._asdict() | {"sources": sources}


def device_clocks(gateway: GatewayStatus) -> dict[str, Any]:
    """The devices, the most wrong first."""
    devices = gateway.device_clocks
    return {
        "watched": devices.watched,
        "wrong": len(devices.wrong()),
        "unwatched_messages": devices.unwatched,
        "devices": [_device(clock) for clock in devices.all()[:SHOWN_DEVICES]],
    }


def _device(clock: DeviceClock) -> Mapping[str, Any]:
    return clock._asdict()


def clock_metrics(gateway: GatewayStatus) -> Iterator[Metric]:
    """The same as metrics."""
    yield from _own_clock(gateway)
    yield from _devices(gateway)
    for kind, text in (
        ("future", "Device times further ahead than future_tolerance: the arrival time was taken."),
        ("large", "Device times off by more than max_clock_skew: flagged."),
        ("blended", "Device times off by more than acceptable_skew: moved towards the arrival time."),
    ):
        family = CounterMetricFamily(f"gateway_clock_skew_{kind}", text, labels=["route"])
        for (route, counted), count in list(gateway.clock_skew.items()):
            if counted == kind:
                family.add_metric([route], count)
        yield family


def _own_clock(gateway: GatewayStatus) -> Iterator[Metric]:
    status = gateway.timekeeper.status()
    state = GaugeMetricFamily("gateway_clock_state", "1 for the state the clock is in.", labels=["state"])
    for name in ("unset", "free", "synchronised", "disputed", "holdover"):
        state.add_metric([name], name == status.state)
    yield state
    for name, text, value in (
        ("certain", "1 while the time is confirmed.", status.certain),
        ("uncertainty_seconds", "Bound on the error of the gateway's time.", status.uncertainty_s),
        ("drift_ppm", "Drift of the machine's quartz against the source.", status.drift_ppm),
        ("system_offset_seconds", "How far the gateway's time is ahead of the system clock.",
         status.system_offset_s),
    ):  # fmt: skip
        if value is not None:
            yield GaugeMetricFamily(f"gateway_clock_{name}", text, value=value)
    yield CounterMetricFamily("gateway_clock_steps", "Steps of the gateway's time.", value=status.steps)
    yield CounterMetricFamily("gateway_clock_switches", "Changes of the source.", value=status.switches)
    jumps = CounterMetricFamily("gateway_clock_jumps", "Jumps of the system clock, by kind.", labels=["kind"])
    for kind, count in status.jumps.items():
        jumps.add_metric([kind], count)
    offsets = GaugeMetricFamily(
        "gateway_clock_source_offset_seconds",
        "Time of a source, against the system clock at the start.",
        labels=["source", "role"],
    )
    for source in status.sources:
        if source.estimate is not None:
            offsets.add_metric([source.name, source.role], source.estimate.offset_s)
    yield from (jumps, offsets)


def _devices(gateway: GatewayStatus) -> Iterator[Metric]:
    devices = gateway.device_clocks
    wrong = devices.wrong()
    yield GaugeMetricFamily("gateway_devices_watched", "Devices with a known clock.", value=devices.watched)
    yield GaugeMetricFamily("gateway_devices_wrong", "Devices whose clocks are wrong.", value=len(wrong))
    yield CounterMetricFamily(
        "gateway_devices_unwatched_messages",
        "Messages of devices beyond the number that is watched.",
        value=devices.unwatched,
    )
    offsets = GaugeMetricFamily(
        "gateway_device_clock_offset_seconds",
        f"How far a device's clock is ahead; the {METRIC_DEVICES} most wrong ones.",
        labels=["device"],
    )
    for clock in wrong[:METRIC_DEVICES]:
        offsets.add_metric([clock.device], clock.offset_ms / 1000)
    yield offsets
