"""How far event times are off for a fleet of devices with bad clocks, before and after normalisation.

Run it by hand: `python -m benchmarks.clocks [--plot docs/clocks.svg]`. All of it is drawn from one seed.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from math import log10
from pathlib import Path
from typing import NamedTuple

from gateway.timekeeping.devices import DeviceClocks
from gateway.timekeeping.normalize import SkewPolicy, normalize_timestamp

DEVICES = 1_000
HOURS = 2
EVERY_MS = 30_000
START_MS = 1_700_000_000_000
POLICY = SkewPolicy()


class Device(NamedTuple):
    """One device. `backlog`: it saves its readings up and sends them every so many ms, 0 for at once."""

    kind: str
    offset_ms: float
    drift: float
    backlog_ms: int


class Event(NamedTuple):
    device: int
    true_ms: float
    device_ms: int
    arrival_ms: int


def fleet(draw: random.Random) -> list[Device]:
    """A half has good clocks; the others are off, run wrong, or save up, some of them with a wrong clock."""
    made = []
    for number in range(DEVICES):
        kind = ("right", "right", "right", "right", "right", "off", "off", "drifts", "saves up", "both")[
            number % 10
        ]
        offset_ms = draw.gauss(0, 200)
        if kind in ("off", "both"):
            offset_ms = draw.choice((-1, 1)) * 10 ** draw.uniform(3.3, 7)  # 2 s to 2.8 h
        drift = draw.gauss(0, 20e-6) if kind != "drifts" else draw.choice((-1, 1)) * draw.uniform(2e-4, 2e-3)
        backlog_ms = round(draw.uniform(5, 60) * 60_000) if kind in ("saves up", "both") else 0
        made.append(Device(kind, offset_ms, drift, backlog_ms))
    return made


def sent(devices: Sequence[Device], draw: random.Random) -> list[Event]:
    """What the gateway sees, in the order of arrival. The way takes 20 ms to about a second."""
    events = []
    for number, device in enumerate(devices):
        phase_ms = draw.uniform(0, EVERY_MS)
        for at in range(HOURS * 3_600_000 // EVERY_MS):
            true_ms = phase_ms + at * EVERY_MS
            leaves_ms = true_ms
            if device.backlog_ms:  # the oldest first, 200 a second
                behind, saved_ms = divmod(true_ms, device.backlog_ms)
                leaves_ms = (behind + 1) * device.backlog_ms + 5 * (saved_ms // EVERY_MS)
            said_ms = true_ms + device.offset_ms + device.drift * true_ms
            arrival_ms = leaves_ms + 20 + draw.expovariate(1 / 80)
            events.append(
                Event(number, START_MS + true_ms, round(START_MS + said_ms), round(START_MS + arrival_ms))
            )
    return sorted(events, key=lambda event: event.arrival_ms)


Rule = Callable[[Event], float]


def estimating() -> Rule:
    """Take off what the estimate of the device's clock says so far: the gateway does not do this."""
    clocks = DeviceClocks(wrong_ms=POLICY.future_tolerance_ms)

    def rule(event: Event) -> float:
        name = str(event.device)
        clocks.observe(name, event.device_ms, event.arrival_ms)
        return event.device_ms - clocks._devices[name].offset_ms()

    return rule


def rules() -> dict[str, Rule]:
    return {
        "device's own time (`trusted`)": lambda event: event.device_ms,
        "arrival (`ingest`)": lambda event: event.arrival_ms,
        "`normalize`": lambda event: (
            normalize_timestamp(event.device_ms, event.arrival_ms, POLICY).event_time_ms
        ),
        "less the estimate": estimating(),
    }


KINDS = ("right", "off", "drifts", "saves up", "both")


def errors(devices: Sequence[Device], events: Sequence[Event]) -> dict[str, dict[str, list[float]]]:
    """The errors in ms by rule and kind of device, sorted."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, rule in rules().items():
        of_kind: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for event in events:
            of_kind[devices[event.device].kind].append(abs(rule(event) - event.true_ms))
        found[name] = {kind: sorted(values) for kind, values in of_kind.items()}
    return found


def quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def shown(ms: float) -> str:
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < 120_000:
        return f"{ms / 1_000:.1f} s"
    return f"{ms / 60_000:.0f} min"


def table(found: dict[str, dict[str, list[float]]]) -> str:
    lines = ["| median / 99 % of | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for name, of_kind in found.items():
        cells = [f"{shown(quantile(v, 0.5))} / {shown(quantile(v, 0.99))}" for v in of_kind.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- the plot: what share of the events is off by at most so much ---

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 300, 52, 40, 46
COLOURS = ("#d9730d", "#8957e5", "#2f81f7", "#3f9c5a")
DECADES = (
    *((1, "1 ms"), (10, "10 ms"), (100, "100 ms"), (1e3, "1 s")),
    *((1e4, "10 s"), (1e5, "100 s"), (1e6, "17 min"), (1e7, "2.8 h")),
)
STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #57606a } .grid { stroke: #8b949e; stroke-opacity: .3 }
@media (prefers-color-scheme: dark) { text { fill: #adbac7 } }
</style>"""


def plot(found: dict[str, dict[str, list[float]]]) -> str:
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">', STYLE]
    width, height = WIDTH - LEFT - 16, HEIGHT - TOP - BOTTOM
    step = width / (len(DECADES) - 1)
    for at, (_, name) in enumerate(DECADES):
        x = LEFT + at * step
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{TOP + height}"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP + height + 16}" text-anchor="middle">{name}</text>')
    for percent in (0, 25, 50, 75, 100):
        y = TOP + height * (1 - percent / 100)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{LEFT + width}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>')
    for at, (name, of_kind) in enumerate(found.items()):
        values = sorted(value for one in of_kind.values() for value in one)
        points = []
        for number in range(201):
            place = log10(max(1.0, quantile(values, number / 200)))
            points.append(f"{LEFT + min(place, 7) * step:.1f},{TOP + height * (1 - number / 200):.1f}")
        parts.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{COLOURS[at]}" stroke-width="2"/>'
        )
        label = name.replace("`", "")
        parts.append(f'<text x="{LEFT + at * 185}" y="20" style="fill:{COLOURS[at]}">{label}</text>')
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 8}">Share of the events whose time is off by at most so much</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    draw = random.Random(20)
    devices = fleet(draw)
    events = sent(devices, draw)
    found = errors(devices, events)
    print(f"{len(devices)} devices, {len(events)} events")
    print(table(found))
    if "--plot" in sys.argv:
        Path(sys.argv[sys.argv.index("--plot") + 1]).write_text(plot(found))


if __name__ == "__main__":
    main()
