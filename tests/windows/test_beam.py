"""Apache Beam's local runner as an independent oracle: the same windows, the same on-time results."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.windowing import Timeline, spec

beam = pytest.importorskip("apache_beam", reason="needs apache-beam, which is no dependency of the tests")
pytestmark = pytest.mark.filterwarnings("ignore")  # Beam's own imports warn about themselves

Result = tuple[str, int, int, int, float]


class Bounds(beam.DoFn):  # type: ignore[misc, name-defined]
    """(key, start_ms, end_ms, count, sum) of each window."""

    def process(self, element: Any, window: Any = beam.DoFn.WindowParam) -> Any:
        key, values = element
        found = list(values)
        yield key, window.start.micros // 1000, window.end.micros // 1000, len(found), float(sum(found))


def by_beam(window: Any, events: list[tuple[str, int, int]], folder: Path) -> list[Result]:
    # The bundle-based runner needs no services; results go through a file, because it copies functions.
    with beam.Pipeline(runner="BundleBasedDirectRunner") as pipeline:
        results = (
            pipeline
            | beam.Create(events)
            | beam.Map(lambda one: beam.window.TimestampedValue((one[0], one[2]), one[1] / 1000))
            | beam.WindowInto(window)
            | beam.GroupByKey()
            | beam.ParDo(Bounds())
            | beam.Map(json.dumps)
        )
        _ = results | beam.io.WriteToText(str(folder / "beam"))
    lines = [line for path in folder.glob("beam*") for line in path.read_text().splitlines()]
    return sorted(tuple(json.loads(line)) for line in lines)


def by_gateway(given: dict[str, Any], events: list[tuple[str, int, int]]) -> list[Result]:
    run = Timeline(spec(**given, out_of_orderness_ms=10**9))
    for key, time_ms, value in events:
        assert run.event(time_ms, value, key=key) == []
    return sorted((one.key, one.start_ms, one.end_ms, one.count, one.result["sum"]) for one in run.end())  # type: ignore[misc, index]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("window", "given"),
    [
        (beam.window.FixedWindows(10), {"type": "tumbling", "size_ms": 10_000}),
        (beam.window.FixedWindows(60, 15), {"type": "tumbling", "size_ms": 60_000, "offset_ms": 15_000}),
        (beam.window.SlidingWindows(10, 5), {"type": "hopping", "size_ms": 10_000, "slide_ms": 5_000}),
        (beam.window.SlidingWindows(10, 3), {"type": "hopping", "size_ms": 10_000, "slide_ms": 3_000}),
        (beam.window.Sessions(4), {"type": "session", "gap_ms": 4_000}),
    ],
    ids=["fixed", "offset", "sliding", "sliding-3", "sessions"],
)
def test_beam_gives_the_same_windows(window: Any, given: dict[str, Any], seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    events = [(draw.choice("abc"), 1_000 * draw.randrange(-60, 240), draw.randrange(100)) for _ in range(150)]
    assert by_gateway(given, events) == by_beam(window, events, tmp_path)
