"""The unit of a result: that of the field, as the routes that feed the window name it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gateway.config import parse_config, warnings_of
from gateway.core.identifiers import EventIds
from gateway.fleet.fold import GatewayFold, lines_of_fold
from gateway.fleet.records import pack, read_record
from gateway.fleet.rules import Rules
from gateway.pipeline.replay import Recorded, line_of
from tests.fleet.test_common_windows import aggregate_lines

AT_MS = 1_790_000_040_000
ROUTES: list[dict[str, Any]] = [
    {
        "name": "meter",
        "topic": "m/{d}",
        "fields": {
            "energy": {"from": "e", "scale": 0.1, "unit": "kWh"},
            "power": {"from": "p", "unit": "W"},
            "plain": "x",
        },
    },
    {"name": "other", "topic": "o/{d}", "fields": {"energy": {"from": "e", "unit": "Wh"}, "plain": "x"}},
    {"name": "third", "topic": "t/{d}", "fields": {"energy": {"from": "e", "unit": "kWh"}}},
]
TUMBLING = {"name": "w", "window": {"type": "tumbling", "size": "1m"}, "plugin": "stats"}


def config_with(**window: object) -> Any:
    settings = {"gateway": {"id": "g"}, "routes": ROUTES, "windows": [TUMBLING | window]}
    return parse_config(yaml.safe_dump(settings))


@pytest.mark.parametrize(
    ("window", "units"),
    [
        ({"route": "meter", "field": "energy"}, {"energy": "kWh"}),
        ({"route": "meter", "field": "plain"}, {}),
        ({"route": "meter", "fields": ["energy", "power", "plain"]}, {"energy": "kWh", "power": "W"}),
        ({"topic": "m/+", "field": "energy"}, {"energy": "kWh"}),
        ({"topic": "t/{d}", "field": "energy"}, {"energy": "kWh"}),
        ({"topic": "#", "field": "energy"}, {}),
    ],
)
def test_a_window_has_the_units_that_its_routes_agree_about(
    window: dict[str, object], units: dict[str, str]
) -> None:
    assert config_with(**window).window_specs()[0].units == units


def test_a_field_that_comes_in_two_units_is_warned_of() -> None:
    mixed = config_with(topic="#", field="energy")
    assert any("energy comes in Wh and kWh" in one for one in warnings_of(mixed))
    assert not any("comes in" in one for one in warnings_of(config_with(route="meter", field="energy")))


@pytest.mark.parametrize(
    ("window", "unit"),
    [
        ({"field": "energy"}, "kWh"),
        ({"fields": ["energy", "power"]}, {"energy": "kWh", "power": "W"}),
        ({"field": "plain"}, None),
    ],
)
def test_replay_and_fleet_run_give_the_unit_with_each_result(window: dict[str, object], unit: object) -> None:
    rules = Rules.of(config_with(route="meter", **window))
    message = {"e": 10, "p": 5, "x": 1}
    run = rules.replay()
    run.feed(Recorded("m/a", b'{"e": 10, "p": 5, "x": 1}', AT_MS))
    (line,) = map(line_of, run.finish())
    stored = aggregate_lines("g", [("m/a", message | {"end_ms": AT_MS})], AT_MS, EventIds())
    folded = lines_of_fold(
        GatewayFold(b"g", rules), [read_record(pack(one, 0, 0).record) for one in stored], flush=True
    )
    for result in map(yaml.safe_load, [line or b"", *folded]):
        assert result.get("unit") == unit
        assert result["count"] == 1
