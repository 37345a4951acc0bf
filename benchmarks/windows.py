"""Events per second of the window engine alone, beside a plain dict loop that does the same arithmetic.

Run it by hand: `python -m benchmarks.windows [events]`.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

from gateway.core.events import Emission, Sample
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec
from plugins.stats import Plugin as Stats

KEYS = 1_000
Event = tuple[str, dict[str, str], tuple[Sample, ...], int]


def events(count: int) -> list[Event]:
    """A thousand devices, each on its topic, 10 readings a second, out of order by up to a second."""
    draw = random.Random(7)
    made: list[Event] = []
    for number in range(count):
        device = f"d{draw.randrange(KEYS)}"
        arrival_ms = 1_700_000_000_000 + number // 10
        sample = Sample(arrival_ms - draw.randrange(1_000), {"device": device, "value": draw.gauss(20, 3)})
        made.append((f"site/{device}", {"device": device}, (sample,), arrival_ms))
    return made


def run_engine(spec: WindowSpec, made: list[Event]) -> int:
    engine = WindowEngine([spec], {spec.name: Stats()})
    out: list[Emission] = []
    for topic, levels, samples, arrival_ms in made:
        for chunk in engine.process(topic, None, levels, samples, arrival_ms):
            out += chunk
    return len(out) + len(engine.flush())


def run_dict(made: list[Event]) -> int:
    """Tumbling minutes of the same statistics: no watermark, no lateness, no plugin, no state to store."""
    windows: dict[tuple[str, int], list[float]] = {}
    for _, _, samples, _ in made:
        for time_ms, fields in samples:
            value: float = fields["value"]  # type: ignore[assignment]
            acc = windows.get((fields["device"], time_ms - time_ms % 60_000))  # type: ignore[arg-type]
            if acc is None:
                windows[fields["device"], time_ms - time_ms % 60_000] = [1, value, 0.0, value, value, value]  # type: ignore[index]
                continue
            acc[0] += 1
            delta = value - acc[1]
            acc[1] += delta / acc[0]
            acc[2] += delta * (value - acc[1])
            acc[3] += value
            acc[4] = min(acc[4], value)
            acc[5] = max(acc[5], value)
    return len(windows)


def measure(name: str, run: Callable[[], int], count: int) -> None:
    started = time.process_time()
    results = run()
    took_s = time.process_time() - started
    rate, cost_us = count / took_s, took_s / count * 1e6
    sys.stdout.write(f"{name:34} {rate:10,.0f} events/s  {cost_us:6.2f} us/event  {results} results\n")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    made = events(count)
    on_topic: list[Event] = [("site", {}, samples, arrival_ms) for _, _, samples, arrival_ms in made]
    measure("plain dict", lambda: run_dict(made), count)
    for label, topic, watermark, batch in (
        ("key per topic, per_key", "site/{device}", "per_key", made),
        ("key per topic, shared", "site/{device}", "shared", made),
        ("key in payload, shared", "site", "shared", on_topic),
    ):
        for kind, slide_ms in (("tumbling", None), ("hopping", 6_000)):
            spec = WindowSpec(
                name="bench",
                type=kind,  # type: ignore[arg-type]
                size_ms=60_000,
                slide_ms=slide_ms,
                key="{device}",
                topic=topic,
                watermark=watermark,  # type: ignore[arg-type]
                out_of_orderness_ms=2_000,
            )
            measure(f"{kind}, {label}", lambda spec=spec, batch=batch: run_engine(spec, batch), count)  # type: ignore[misc]


if __name__ == "__main__":
    main()
