"""Gateways that share the messages of some devices have the parts of each window; merged they are whole."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any

import orjson
import pytest

from gateway.config import parse_config
from gateway.core.errors import ConfigError, PluginError
from gateway.core.events import Emission, FieldValue, Reading
from gateway.decode.routes import RouteTable
from gateway.fleet.rules import Rules
from gateway.pipeline.plugins_loader import load_plugins
from gateway.pipeline.replay import Recorded, Replay
from gateway.windows.emission import emission_json
from gateway.windows.engine import WindowEngine
from gateway.windows.merged import MergedPartials
from gateway.windows.plugin import alike, check_contract
from tests.support.windowing import shipped

MINUTE_MS = 60_000
PLUGINS = ("stats", "percentiles", "counter", "time_weighted")

SENSORS = """
gateway: {id: %s}
routes: [{name: s, topic: "s/{device}", timestamp_path: t, timestamp_format: unix_ms, timestamp: trusted}]
windows:
  - name: m
    route: s
    field: v
    key: "{device}"
    plugin: %s
    window: {type: tumbling, size: 1m}
    allowed_lateness: 5m
    idle_timeout: off
    publish: {partial: true, quality: true}
"""
ROLL_UP = """
gateway: {id: top}
routes: [{preset: partials}]
windows:
  - name: m
    topic: "gateway/{source}/aggregates/m/{device}"
    field: v
    key: "{device}"
    plugin: %s
    window: {type: %s}
    allowed_lateness: 10m
    idle_timeout: off
    merge: true
    publish: {quality: true}
"""


class Site:
    """The windows of one gateway."""

    def __init__(self, config: str, name: str = "top") -> None:
        self.name = name
        self.numbers: Counter[str] = Counter()
        rules = Rules.of(parse_config(config))
        self.run = Replay(RouteTable(rules.routes), rules.engine(rules.windows))

    def feed(self, topic: str, payload: object, at_ms: int) -> list[Emission]:
        self.numbers[topic] += 1
        return self.run.feed(Recorded(topic, json.dumps(payload).encode(), at_ms, 0, self.numbers[topic]))

    def published(self, emissions: Iterable[Emission]) -> list[tuple[str, Any]]:
        return [
            (f"gateway/{self.name}/aggregates/{one.window}/{one.key}", as_published(one, self.name))
            for one in emissions
            if one.kind != "dropped"
        ]


def as_published(emission: Emission, source: str) -> Any:
    return orjson.loads(emission_json(emission)) | {"source": source}


def readings(devices: int = 7, seed: int = 3) -> list[tuple[str, dict[str, Any], int]]:
    """Messages in order of arrival: meters that rise, some of them late."""
    chance = random.Random(seed)
    found, value = [], dict.fromkeys(range(devices), 0.0)
    for n in range(1500):
        device, now_ms = chance.randrange(devices), 1_790_000_000_000 + n * 250
        value[device] += chance.random()
        late_ms = 90_037 if chance.random() < 0.05 else 0
        payload = {"v": round(value[device], 3), "t": now_ms - late_ms}
        found.append((f"s/d{device}", payload, now_ms))
    return found


def newest(results: Iterable[Any]) -> dict[tuple[str, int], Any]:
    found: dict[tuple[str, int], Any] = {}
    for one in results:
        if one["kind"] != "dropped":
            found[one["key"], one["start_ms"]] = one
    return found


@cache
def parts_of(plugin: str, seed: int) -> tuple[tuple[tuple[str, Any], ...], dict[tuple[str, int], Any]]:
    """What two gateways publish that share the messages, and what one would that has them all."""
    chance = random.Random(seed)
    pair = [Site(SENSORS % (name, plugin), name) for name in ("a", "b")]
    single = Site(SENSORS % ("one", plugin), "one")
    parts: list[tuple[str, Any]] = []
    whole: list[Emission] = []
    for message in readings(seed=seed):
        site = chance.choice(pair)
        parts += site.published(site.feed(*message))
        whole += single.feed(*message)
    for site in pair:
        parts += site.published(site.run.finish())
    whole += single.run.finish()
    return tuple(parts), newest(one for _, one in single.published(whole))


def merged(plugin: str, parts: Sequence[tuple[str, Any]], shape: str = "tumbling, size: 1m") -> list[Any]:
    top = Site(ROLL_UP % (plugin, shape))
    out = [top.feed(topic, payload, 1_790_000_600_000) for topic, payload in parts]
    return [orjson.loads(emission_json(one)) for one in (*chain.from_iterable(out), *top.run.finish())]


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize("order", ["as sent", "shuffled, and one in three again"])
def test_merged_parts_of_two_gateways_equal_one_gateways_windows(plugin: str, order: str) -> None:
    sent, whole = parts_of(plugin, seed=3)
    parts = [*sent]
    if order != "as sent":
        parts += random.Random(4).sample(parts, len(parts) // 3)
        random.Random(5).shuffle(parts)
    found = newest(merged(plugin, parts))
    assert len({key for key, _ in found}) == 7
    assert found.keys() == whole.keys()
    assert [at for at, one in found.items() if not same(one, whole[at])] == []


def same(one: Any, other: Any) -> bool:
    return alike(one["result"], other["result"]) and one["count"] == other["count"]


def test_the_quality_of_merged_parts_is_that_of_the_parts_together() -> None:
    """With the numbers of each gateway's own streams."""
    parts, whole = parts_of("stats", seed=3)
    by_source = {name: newest(one for _, one in parts if one["source"] == name) for name in ("a", "b")}
    late = 0
    for at, one in newest(merged("stats", parts)).items():
        shares = {name: found[at]["quality"] for name, found in by_source.items() if at in found}
        late += one["quality"]["late"]
        assert one["quality"] == {
            "readings": whole[at]["quality"]["readings"],
            "late": sum(share["late"] for share in shares.values()),
            "dropped": 0,
            "misses": 0,
            "sources": {
                f"{name}:s/{at[0]}": share["sources"][f"s/{at[0]}"] for name, share in shares.items()
            },
        }
    assert late > 10


def with_unit(unit: str) -> str:
    fields = f"fields: {{v: {{from: v, unit: {unit}}}}}"
    return SENSORS.replace("timestamp: trusted}", f"timestamp: trusted, {fields}}}")


@pytest.mark.parametrize(("units", "merged_unit"), [(("kWh", "kWh"), "kWh"), (("kWh", "Wh"), None)])
def test_merged_parts_have_the_unit_that_all_of_them_have(
    units: tuple[str, str], merged_unit: str | None
) -> None:
    top, at_ms = Site(ROLL_UP % ("stats", "tumbling, size: 1m")), 1_790_000_040_000
    for name, unit in zip("ab", units, strict=True):
        site = Site(with_unit(unit) % (name, "stats"), name)
        given = [*site.feed("s/d1", {"v": 1, "t": at_ms}, at_ms), *site.run.finish()]
        for topic, payload in site.published(given):
            assert payload["unit"] == unit, payload
            top.feed(topic, payload, at_ms)
    (result,) = [orjson.loads(emission_json(one)) for one in top.run.finish()]
    assert (result["count"], result.get("unit")) == (2, merged_unit)


def test_minutes_are_merged_into_longer_and_overlapping_windows() -> None:
    parts, minutes = parts_of("stats", seed=6)
    for shape, size in (("tumbling, size: 5m", 5), ("hopping, size: 3m, slide: 1m", 3)):
        for (key, start_ms), one in newest(merged("stats", parts, shape)).items():
            inside = [minutes.get((key, start_ms + n * MINUTE_MS)) for n in range(size)]
            assert one["count"] == sum(each["count"] for each in inside if each)
            assert one["result"]["min"] == min(each["result"]["min"] for each in inside if each)


def test_a_revision_that_came_before_is_no_second_contribution() -> None:
    top = Site(ROLL_UP % ("stats", "tumbling, size: 1m"))
    site = Site(SENSORS % ("a", "stats"), "a")
    start_ms = 1_790_000_040_000
    given = [*site.feed("s/d1", {"v": 1, "t": start_ms}, start_ms)]
    given += site.feed("s/d1", {"v": 2, "t": start_ms + 70_000}, start_ms + 70_000)
    given += site.feed("s/d1", {"v": 3, "t": start_ms + 1}, start_ms + 71_000)
    parts = site.published(given)
    assert [(one["kind"], one["revision"], one["count"]) for _, one in parts] == [
        ("on_time", 0, 1),
        ("correction", 1, 2),
    ]
    for topic, payload in (parts[1], parts[0], parts[1]):
        top.feed(topic, payload, start_ms + 80_000)
    (result,) = top.run.finish()
    assert (result.count, result.result["sum"]) == (2, 4)  # type: ignore[index]


def test_an_aggregate_without_a_part_or_of_another_plugin_is_counted_and_left_out() -> None:
    rules = Rules.of(parse_config(ROLL_UP % ("stats", "tumbling, size: 1m")))
    engine = WindowEngine(rules.windows, rules.plugins.plugins)
    run = Replay(RouteTable(rules.routes), engine)
    aggregate = {"source": "a", "revision": 0, "kind": "on_time", "count": 1, "start_ms": 60_000}
    for payload in (aggregate, aggregate | {"partial": {"other": "plugin"}}):
        run.feed(Recorded("gateway/a/aggregates/m/d1", orjson.dumps(payload), 200_000, 0))
    assert run.finish() == []
    assert engine.counters["m"].plugin_errors == 1


@pytest.mark.parametrize(
    ("window", "problem"),
    [
        ("{type: hopping, size: 5m, slide: 1m}", "of windows that overlap; publish tumbling ones"),
        ("{type: session, gap: 1m}", "the bounds of this window differ"),
        ("{type: count, count: 5}", "the bounds of this window differ"),
        ("{type: tumbling, size: 1m, accumulation: discarding}", "only the last part would be merged"),
    ],
)
def test_windows_whose_parts_cannot_be_merged_publish_none(window: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config((SENSORS % ("a", "stats")).replace("{type: tumbling, size: 1m}", window))
    assert any(problem in one for one in caught.value.problems), caught.value.problems


def test_a_plugin_that_compares_windows_publishes_no_parts() -> None:
    text = (SENSORS % ("a", "threshold")).replace("field: v", "field: v\n    options: {above: 3}")
    config = parse_config(text)
    with pytest.raises(PluginError, match="compares windows"):
        load_plugins(config.window_specs())


@pytest.mark.parametrize("plugin", ["stats", "counter"])
def test_merging_obeys_the_contract_of_plugins(plugin: str) -> None:
    inner = shipped(plugin)
    wrapped = MergedPartials(inner)
    part = orjson.dumps(inner.add_input(inner.create_accumulator(), Reading(1.0, 5, {}, "t"))).decode()
    fields: dict[str, FieldValue] = {"partial": part, "revision": 0, "count": 1}
    names = [f"g{n % 3}" for n in range(9)]
    readings = [
        Reading(float("nan"), 1000 * n, fields | {"source": name}, "t") for n, name in enumerate(names)
    ]
    wrapped.examples = lambda: readings  # type: ignore[attr-defined]
    check_contract(wrapped, plugin)
