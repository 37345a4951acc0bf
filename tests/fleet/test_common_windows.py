"""Windows over all gateways (`scope: fleet`): one key, one watermark that waits for each gateway."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from gateway.core.events import Kind, Priority, WireEvent
from gateway.core.identifiers import EventIds
from gateway.receiver.event_lines import event_line, event_of_line
from gateway.windows.plugin import alike
from tests.fleet.test_fleet_run import fleet_run, lines_of, results, shuffled, write
from tests.support.fleets import START_MS, fleet_config, received
from tests.windows.test_merged import ROLL_UP, SENSORS, Site, newest, readings

SIZE_MS = 20_000
TEN_MINUTES: dict[str, Any] = {
    "name": "all",
    "window": {"type": "tumbling", "size": "20s"},
    "scope": "fleet",
    "out_of_orderness": "10m",
    "idle_timeout": False,
}


def whole(lines: Iterable[bytes]) -> dict[tuple[str, int], tuple[int, float]]:
    """Count and sum of each device name's readings in each window, over all gateways."""
    found: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for line in lines:
        event = event_of_line(line).event
        payload = json.loads(event.payload)
        found[event.stream.split("/")[1], payload["t"] // SIZE_MS * SIZE_MS].append(payload["v"])
    return {at: (len(values), round(sum(values), 6)) for at, values in found.items()}


def given(config: Path) -> dict[tuple[str, int], tuple[int, float]]:
    ours = [one for line in results(config) if (one := json.loads(line))["window"] == "all"]
    assert all("gateway" not in one and one["kind"] != "dropped" for one in ours)
    return {(one["key"], one["start_ms"]): (one["count"], round(one["result"]["sum"], 6)) for one in ours}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_key_gathers_the_readings_of_all_gateways(tmp_path: Path, workers: int) -> None:
    config, known = fleet_config(tmp_path, [TEN_MINUTES]), lines_of()
    every = [line for lines in known.values() for line in lines]
    done = fleet_run(config, write(tmp_path / "in.ndjson", shuffled(every)), workers=workers)
    assert done.returncode == 0, done.stdout
    assert given(config) == whole(every)
    assert json.loads(done.stdout)["results"] == len(results(config))


def late_by(gateway: str, ms: int, events: int = 300) -> Iterator[bytes]:
    """One gateway that takes everything in `ms` after it was measured, in order."""
    ids = EventIds()
    for n in range(events):
        measured_ms = START_MS + n * 1000
        payload = orjson.dumps({"v": 1, "t": measured_ms})
        times = (measured_ms, measured_ms + ms, measured_ms)
        places = (Priority.NORMAL, Kind.RAW, 0)
        yield event_line(
            gateway, WireEvent(ids.next(measured_ms + ms), "sensors/d1", n + 1, *times, *places, payload)
        )


@pytest.mark.parametrize(("idle_timeout", "is_whole"), [(False, True), ("10m", True), ("1m", False)])
def test_the_watermark_waits_for_each_gateway_until_it_is_idle(
    tmp_path: Path, idle_timeout: object, is_whole: bool
) -> None:
    """One is five minutes behind the other. Without waiting for it, all that it has would be too late."""
    window = TEN_MINUTES | {"out_of_orderness": "0", "idle_timeout": idle_timeout}
    config = fleet_config(tmp_path, [window])
    every = [*late_by("prompt", 0), *late_by("slow", 300_000)]
    fleet_run(config, write(tmp_path / "in.ndjson", shuffled(every)))
    lines = [json.loads(line) for line in results(config)]
    dropped = [one for one in lines if one["kind"] == "dropped"]
    assert (dropped == []) is is_whole
    if is_whole:
        assert given(config) == whole(every)


def test_windows_of_each_gateway_and_of_all_stand_side_by_side(tmp_path: Path) -> None:
    own: dict[str, Any] = {
        "name": "own",
        "window": {"type": "tumbling", "size": "20s"},
        "out_of_orderness": "10m",
    }
    config, known = fleet_config(tmp_path, [TEN_MINUTES, own]), lines_of(events=100)
    every = [line for lines in known.values() for line in lines]
    assert fleet_run(config, write(tmp_path / "in.ndjson", every)).returncode == 0
    assert given(config) == whole(every)
    ours = [one for line in results(config) if (one := json.loads(line))["window"] == "own"]
    assert {one["gateway"] for one in ours} == known.keys()


def test_partial_results_that_were_received_are_merged(tmp_path: Path) -> None:
    """What two gateways sent up: their aggregates alone, without the readings."""
    pair = [Site(SENSORS % (name, "stats"), name) for name in ("a", "b")]
    single = Site(SENSORS % ("one", "stats"), "one")
    expected, lines, ids = [], [], EventIds()
    for n, message in enumerate(readings()):
        site = pair[n % 2]
        expected += single.published(single.feed(*message))
        lines += aggregate_lines(site.name, site.published(site.feed(*message)), message[2], ids)
    for site in pair:
        lines += aggregate_lines(site.name, site.published(site.run.finish()), message[2], ids)
    expected += single.published(single.run.finish())
    config = tmp_path / "gateway.yaml"
    config.write_text(ROLL_UP % ("stats", "tumbling, size: 1m"))
    assert yaml.safe_load(config.read_text())["windows"][0]["merge"]
    done = fleet_run(config, write(tmp_path / "in.ndjson", shuffled(lines)))
    assert done.returncode == 0, done.stdout
    found, wanted = newest(map(json.loads, results(config))), newest(one for _, one in expected)
    assert found.keys() == wanted.keys()
    assert all(alike(found[at]["result"], wanted[at]["result"]) for at in wanted)


def aggregate_lines(
    gateway: str, published: Iterable[tuple[str, Any]], at_ms: int, ids: EventIds
) -> list[bytes]:
    return [
        event_line(
            gateway,
            WireEvent(
                *(
                    ids.next(at_ms),
                    topic,
                    1,
                    payload["end_ms"],
                    at_ms,
                    None,
                    Priority.NORMAL,
                    Kind.AGGREGATE,
                    0,
                ),
                orjson.dumps(payload),
            ),
        )
        for topic, payload in published
    ]


def test_a_gateway_alone_takes_the_scope_for_its_own(tmp_path: Path) -> None:
    config = fleet_config(tmp_path, [TEN_MINUTES])
    lines = [*received("g1", 3, 50, 1)]
    assert fleet_run(config, write(tmp_path / "in.ndjson", lines)).returncode == 0
    assert given(config) == whole(lines)
