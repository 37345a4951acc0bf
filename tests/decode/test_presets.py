"""Presets: what `preset: tasmota` stands for, and that docs/devices.md says what really comes out."""

import itertools
import json
import re
from datetime import datetime
from pathlib import Path

import jmespath
import pytest
from _pytest.mark import ParameterSet
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config import parse_config
from gateway.core.errors import ConfigError
from gateway.core.expressions import compile_expression
from gateway.decode.presets import PRESETS, missing_extra_of
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.lab import device_payloads as fleet_presets
from gateway.lab import fleet_simulator as simulation
from tests.support.decoding import decode_with
from tests.support.places import DOCS

PAGE = (DOCS / "devices.md").read_text("utf-8")
ARRIVAL_MS = 1_772_445_605_500  # half a second after what most of the page's messages say
HEAD = "gateway: {id: g}\n"
_PART = re.compile(
    r"```yaml\n(?P<config>.*?)```"
    r"|`(?P<topic>[^`\n]+)`\n```\w+\n(?P<payload>.*?)\n```\n"
    r"gives, (?P<when>[^\n]*),\n```json\n(?P<samples>.*?)\n```",
    re.DOTALL,
)


def examples() -> list[ParameterSet]:
    """(config, match) of each message on the page, with the configuration that stands above it."""
    config, found = "", list[ParameterSet]()
    for part in _PART.finditer(PAGE):
        if part["config"]:
            config = part["config"]
        else:
            found.append(pytest.param(config, part, id=part["topic"]))
    return found


def specs(routes: str) -> dict[str, RouteSpec]:
    return {spec.name: spec for spec in parse_config(f"{HEAD}routes: {routes}").route_specs()}


@pytest.mark.parametrize("name", sorted(PRESETS.keys() & fleet_presets.PRESETS.keys()))
def test_a_preset_reads_what_the_simulated_fleet_of_its_name_publishes(name: str) -> None:
    if missing_extra_of(name):
        pytest.skip("needs the extra sparkplug")
    table = RouteTable(specs(f"[{{preset: {name}, timestamp: trusted}}]").values())
    spec = simulation.FleetSpec(devices=3, rate_per_s=10, preset=name, count=30)
    for publication in simulation.simulate(spec, ARRIVAL_MS):
        decoded = decode_with(table, publication.topic, publication.payload, publication.event_time_ms)
        assert decoded.samples
        assert (decoded.event_time_ms, decoded.misses) == (publication.event_time_ms, ())


def problem(routes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(f"{HEAD}routes: {routes}", source_name="g.yaml")
    return caught.value.problems[0]


@pytest.mark.parametrize(("config", "example"), examples())
def test_a_message_of_the_docs_gives_what_the_docs_say(config: str, example: re.Match[str]) -> None:
    table = RouteTable(parse_config(HEAD + config).route_specs())
    decoded = decode_with(table, example["topic"], example["payload"].encode(), ARRIVAL_MS)

    assert [dict(sample.fields) for sample in decoded.samples] == json.loads(example["samples"])
    assert decoded.problem is None
    expected_ms = ARRIVAL_MS
    if example["when"] != "on arrival":
        expected_ms = int(datetime.fromisoformat(example["when"].removeprefix("at ")).timestamp() * 1000)
    assert decoded.event_time_ms == expected_ms


def test_the_page_tells_of_every_preset_with_its_topic() -> None:
    for name, preset in PRESETS.items():
        row = re.search(rf"^\|.*`{name}`.*$", PAGE, re.MULTILINE)
        assert row is not None, name
        topic = str(preset["topic"])
        assert f"`{topic}`" in row[0] or f"`…/{topic.rsplit('/', 1)[1]}`" in row[0], name


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_sound_alone(name: str) -> None:
    made = specs(f"[{{preset: {name}}}]")
    assert made[name].topic == PRESETS[name]["topic"]


def test_one_entry_stands_for_several_routes_with_names_of_its_own() -> None:
    made = specs("[{preset: tasmota, name: hall, timestamp_timezone: Europe/Berlin, priority: low}]")
    assert list(made) == ["hall", "hall_state"]
    assert {spec.timestamp_timezone for spec in made.values()} == {"Europe/Berlin"}
    assert made["hall_state"].priority == made["hall"].priority
    assert made["hall_state"].topic == "tele/{device}/STATE"


def test_a_topic_beside_a_preset_is_the_only_one() -> None:
    assert list(specs("[{preset: tasmota, topic: 'x/{device}/tele/SENSOR'}]")) == ["tasmota"]


def test_fields_beside_a_preset_are_looked_up_in_the_whole_message() -> None:
    made = specs("[{preset: tasmota, fields: {t: BME280.Temperature}}]")
    assert (made["tasmota"].readings, dict(made["tasmota"].fields)) == (None, {"t": "BME280.Temperature"})
    assert made["tasmota_state"].fields == {}


@pytest.mark.parametrize(
    ("routes", "told"),
    [
        ("[{preset: tasmoto}]", "routes[0].preset: there is no preset tasmoto (did you mean 'tasmota'?)"),
        ("[{preset: 7}]", "routes[0].preset: there is no preset 7; there is tasmota, tasmota_state, zig"),
        ("[{preset: tasmota, qos: 7}]", "routes[0].qos: must be 0, 1 or 2"),
        ("[{preset: tasmota, tpoic: x}]", "routes[0].tpoic: unknown key (did you mean 'topic'?)"),
        ("[{preset: tasmota}, {preset: tasmota_state}]", "routes[1].name: tasmota_state is also"),
        ("[{topic: a}]", "routes[0].name: is required"),
    ],
)  # fmt: skip
def test_what_is_wrong_beside_a_preset_is_told_at_its_place(routes: str, told: str) -> None:
    assert told in problem(routes)


def test_windows_find_the_routes_that_presets_bring() -> None:
    window = (
        "{name: w, route: tasmota_stat, field: RSSI, key: '{device}', window: {type: tumbling, size: 1m}}"
    )
    with pytest.raises(ConfigError) as caught:
        parse_config(f"{HEAD}routes: [{{preset: tasmota}}]\nwindows: [{window}]")
    assert "(did you mean 'tasmota_state'?)" in caught.value.problems[0]
    config = parse_config(
        f"{HEAD}routes: [{{preset: tasmota}}]\nwindows: [{window.replace('_stat,', '_state,')}]"
    )
    assert config.window_specs()[0].watermark == "per_key"


def test_check_shows_what_a_preset_stands_for(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(HEAD + "routes: [{preset: tasmota}, {name: mine, topic: a}]")
    shown = CliRunner().invoke(app, ["check", "-c", str(path)]).stdout
    assert "route  tasmota_state: tele/{device}/STATE as json, all fields (preset tasmota)\n" in shown
    assert "route  mine: a as json, all fields\n" in shown
    told = json.loads(CliRunner().invoke(app, ["check", "-c", str(path), "--json"]).stdout)
    assert [route["name"] for route in told["config"]["routes"]] == ["tasmota", "tasmota_state", "mine"]


def test_several_formats_of_a_time_are_tried_in_turn() -> None:
    table = RouteTable(specs("[{preset: zigbee2mqtt}]").values())
    for last_seen in ("2026-03-02T11:00:05+01:00", 1_772_445_605_000, "2026-03-02T10:00:05Z"):
        payload = json.dumps({"last_seen": last_seen}).encode()
        decoded = decode_with(table, "zigbee2mqtt/d", payload, ARRIVAL_MS)
        assert decoded.event_time_ms == 1_772_445_605_000
    assert "did you mean 'iso'" in problem("[{name: r, topic: a, timestamp_format: unix or ios}]")


def test_the_first_of_several_paths_is_the_same_as_in_jmespath() -> None:
    for text in ("a || b", "a.x||b[0]", 'c || a || "b"'):
        for a, b in itertools.product((None, 0, 0.0, False, "", [], {}, {"x": 1}, [7], "t", True), repeat=2):
            document = {"a": a, "b": b}
            assert compile_expression(text)(document, {}) == jmespath.search(text, document), (text, document)


def test_the_objects_inside_an_object_are_found_the_same_way_everywhere() -> None:
    document = {"a": {"x": 1}, "b": 2, "c": {"name": "own"}}
    found = [{"name": "a", "x": 1}, {"name": "own"}]
    assert compile_expression("sections(@, 'name')")(document, {}) == found
    assert compile_expression("sections(inner, 'name')")({"inner": document}, {}) == found
    assert compile_expression("sections(@, 'name')")([document], {}) is None


@pytest.mark.parametrize(
    "tags",
    [
        {"values": {"pressure": 6.25}, "errors": {"oil": 3002}},
        {"values": {}, "errors": {"oil": 3002}},
        {"tags": [{"name": "pressure", "value": 6.25}, {"name": "oil", "error": 3002}]},
    ],
)
def test_a_tag_that_neuron_could_not_read_is_a_miss(tags: dict[str, object]) -> None:
    table = RouteTable(specs("[{preset: neuron}]").values())
    payload = json.dumps({"node": "press", "group": "fast", "timestamp": 1_772_445_605_250, **tags}).encode()
    decoded = decode_with(table, "neuron/upload/press/fast", payload, ARRIVAL_MS)
    values = {sample.fields["name"]: sample.fields.get("value") for sample in decoded.samples}
    assert values["oil"] is None
    assert values.get("pressure", 6.25) == 6.25
    assert decoded.misses == ("value",)
