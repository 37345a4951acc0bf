"""What a receiver has of many gateways: lines of events, with late data, in the order of each gateway."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import yaml

from gateway.core.events import Kind, Priority, WireEvent
from gateway.core.identifiers import EventIds
from gateway.receiver.event_lines import event_line

START_MS = 1_790_000_000_000

WINDOWS: list[dict[str, object]] = [
    {
        "name": "grid",
        "window": {"type": "tumbling", "size": "10s"},
        "out_of_orderness": "1s",
        "allowed_lateness": "20s",
    },
    {"name": "hops", "window": {"type": "hopping", "size": "30s", "slide": "10s"}, "plugin": "percentiles"},
    {"name": "walks", "window": {"type": "session", "gap": "1500ms"}, "allowed_lateness": "10s"},
]
SHARED: dict[str, object] = {
    "name": "site",
    "window": {"type": "tumbling", "size": "20s"},
    "key": "all",
    "allowed_lateness": "10s",
}


def fleet_config(folder: Path, windows: Sequence[dict[str, object]] = (*WINDOWS, SHARED)) -> Path:
    """A configuration that reads `sensors/{device}` and runs `windows` over the field v."""
    common = {"route": "sensors", "field": "v", "key": "{device}", "idle_timeout": "30s"}
    route = {"name": "sensors", "topic": "sensors/{device}", "timestamp_path": "t"}
    route |= {"timestamp_format": "unix_ms", "timestamp": "trusted"}
    config = {
        "gateway": {"id": "g1", "data_dir": "data"},
        "local": {"url": "embedded"},
        "routes": [route],
        "windows": [common | window for window in windows],
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def received(gateway: str, devices: int, events: int, seed: int, every_ms: int = 40) -> Iterator[bytes]:
    """The lines of one gateway's events, in its order: one in ten is late, and devices fall silent."""
    chance = random.Random(seed)
    ids, numbers = EventIds(), Counter[str]()
    now_ms = START_MS + chance.randrange(1000)
    for n in range(events):
        now_ms += chance.randrange(2 * every_ms)
        if chance.random() < 0.001:
            now_ms += 45_000  # an outage of the site
        topic = f"sensors/d{chance.randrange(devices)}"
        late_ms = chance.choice((2_000, 15_000, 60_000)) if chance.random() < 0.1 else 0
        numbers[topic] += 1
        payload = orjson.dumps({"v": round(chance.gauss(20, 5), 2), "t": now_ms - late_ms, "n": n})
        event = WireEvent(
            ids.next(now_ms),
            topic,
            numbers[topic],
            now_ms - late_ms,
            now_ms,
            now_ms - late_ms,
            Priority.NORMAL,
            Kind.RAW,
            0,
            payload,
        )
        yield event_line(gateway, event, "b1")
