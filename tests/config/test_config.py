"""The configuration as a whole: what it reads, what it fills in, what it keeps to itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from gateway.config import Config, json_schema, load_config, parse_config, warnings_of
from gateway.config.reference import updated
from gateway.core.errors import ConfigError, ConfigFileError
from gateway.core.events import Priority
from gateway.core.timestamps import TimeBound
from gateway.windows.spec import WindowSpec
from tests.support.places import DOCS

EXAMPLES = sorted((DOCS / "examples").glob("*.yaml"))


def parse(**sections: Any) -> Config:
    base = {"gateway": {"id": "g7"}, "routes": [{"name": "r", "topic": "a/{device}"}]}
    return parse_config(json.dumps(base | sections))


def window(**parts: Any) -> dict[str, Any]:
    return {"name": "w", "route": "r", "window": {"type": "tumbling", "size": "1m"}, **parts}


def spec(route_topic: str = "a/{device}", **parts: Any) -> WindowSpec:
    routes = [{"name": "r", "topic": route_topic}]
    return parse(routes=routes, windows=[window(**parts)]).window_specs()[0]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_of_the_docs_is_sound(path: Path) -> None:
    assert load_config(path).routes


def test_the_example_in_the_docs_text_is_sound() -> None:
    text = (DOCS / "configuration.md").read_text("utf-8")
    example = text.split("```yaml\n", 1)[1].split("```", 1)[0].replace("password_file: cloud.password", "")
    assert parse_config(example).gateway.id == "hall-3"


def test_the_reference_in_the_docs_is_up_to_date() -> None:
    text = (DOCS / "configuration.md").read_text("utf-8")
    assert updated(text) == text, "run: python -m gateway.config.reference docs/configuration.md"


def test_durations_sizes_and_rates_are_numbers_in_code() -> None:
    config = parse(
        local={"keepalive": "1m30s"},
        buffer={"max_size": "64KiB", "keep_synced": 0},
        cloud={"url": "mqtt://c", "bandwidth": "80kbit/s"},
    )
    assert config.local.keepalive == 90_000
    assert (config.buffer.max_size, config.buffer.keep_synced) == (65_536, 0)
    assert config.cloud is not None and config.cloud.bandwidth == 10_000


def test_what_is_left_out_has_the_documented_default() -> None:
    config = parse()
    assert (config.local.url, config.local.protocol, config.local.keepalive) == ("embedded", "3.1.1", 30_000)
    assert (config.buffer.max_size, config.buffer.group_commit, config.buffer.synchronous) == (
        2**31,
        100,
        "full",
    )
    assert config.cloud is None
    assert config.http is not None and str(config.http.listen) == "127.0.0.1:8080"
    assert config.log.format == "auto"


def test_paths_start_from_the_folder_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("gateway: {id: g, data_dir: ./data}\nroutes: [{name: r, topic: a}]\n")
    config = load_config(file)
    assert config.gateway.data_dir == tmp_path / "data"
    assert config.plugins.path == tmp_path / "plugins"


def test_the_gateways_id_names_its_clients() -> None:
    config = parse(local={"client_id": "edge-{id}-in"}, cloud={"url": "mqtt://c"})
    assert config.cloud is not None
    assert (config.local.client_id, config.cloud.client_id) == ("edge-g7-in", "gateway-g7")


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("mqtt://broker", "broker", 1883, False),
        ("mqtts://broker/", "broker", 8883, True),
        ("mqtt://10.0.0.1:2883", "10.0.0.1", 2883, False),
        ("mqtts://[::1]:9883", "::1", 9883, True),
    ],
)
def test_a_brokers_url_gives_host_port_and_tls(url: str, host: str, port: int, tls: bool) -> None:
    cloud = parse(cloud={"url": url}).cloud
    assert cloud is not None
    assert (*cloud.address, cloud.uses_tls) == (host, port, tls)


def test_an_embedded_broker_is_reached_where_it_listens() -> None:
    local = parse(local={"listen": "127.0.0.1:2999"}).local
    assert local.embedded
    assert local.address == ("127.0.0.1", 2999)


@pytest.mark.parametrize("written", ["5", '"5"', "3.1.1"])
def test_the_protocol_may_be_written_with_and_without_quotes(written: str) -> None:
    config = parse_config(
        f"gateway: {{id: g}}\nlocal: {{url: mqtt://h, protocol: {written}}}\nroutes: [{{name: r, topic: a}}]"
    )
    assert config.local.protocol == written.strip('"')


@pytest.mark.parametrize("written", ["off", "false", "null", "${NOWHERE:-off}"])
def test_http_can_be_switched_off(written: str) -> None:
    config = parse_config(f"gateway: {{id: g}}\nroutes: [{{name: r, topic: a}}]\nhttp: {written}")
    assert config.http is None


def test_a_route_becomes_a_spec_with_the_bounds_of_time() -> None:
    route = {"name": "r", "topic": "a", "priority": "critical", "timestamp_min": "2h", "fields": {"t": "x.y"}}
    (made,) = parse(routes=[route], time={"acceptable_skew": "7s"}).route_specs()
    assert (made.priority, made.timestamp_min) == (Priority.CRITICAL, TimeBound(7_200_000, relative=True))
    assert made.skew.acceptable_skew_ms == 7_000
    assert dict(made.fields) == {"t": "x.y"}


def test_each_type_of_window_becomes_a_spec() -> None:
    assert spec(window={"type": "sliding", "size": "5m", "slide": "1m"}).type == "hopping"
    hopping = spec(window={"type": "hopping", "size": "5m", "slide": "1m", "offset": "15s"})
    assert (hopping.size_ms, hopping.slide_ms, hopping.offset_ms) == (300_000, 60_000, 15_000)
    assert spec(window={"type": "session", "gap": "30s"}).gap_ms == 30_000
    assert spec(window={"type": "count", "count": 100}).count == 100
    whole = spec(window={"type": "global", "trigger": {"count": 5, "every": "10s"}, "mode": "discarding"})
    assert (whole.trigger_count, whole.trigger_every_ms, whole.mode) == (5, 10_000, "discarding")


def test_a_calendar_window_becomes_a_spec() -> None:
    day = spec(window={"type": "calendar", "every": "day", "timezone": "Europe/Berlin"})
    assert (day.type, day.every, day.timezone, day.week_starts) == ("calendar", "day", "Europe/Berlin", None)
    week = spec(window={"type": "calendar", "every": "week", "week_starts": "sunday"})
    assert (week.every, week.timezone, week.week_starts) == ("week", "UTC", "sunday")


def test_accumulation_stands_in_the_window_or_in_its_shape() -> None:
    shape = {"type": "tumbling", "size": "1m"}
    assert spec(window=shape).mode == "accumulating"
    assert spec(window=shape, accumulation="discarding").mode == "discarding"
    assert spec(window={**shape, "accumulation": "discarding"}).mode == "discarding"
    whole = {"type": "global", "trigger": {"count": 5}}
    assert spec(window=whole, accumulation="discarding").mode == "discarding"


def test_silence_is_judged_by_the_sources_own_rhythm_unless_said_otherwise() -> None:
    unset = spec(window={"type": "tumbling", "size": "1m"})
    assert (unset.idle_timeout_ms, unset.idle_learns) == (60_000, True)
    assert spec(window={"type": "session", "gap": "5m"}).idle_timeout_ms == 300_000
    assert spec(window={"type": "calendar", "every": "hour"}).idle_timeout_ms == 3_600_000
    assert spec(window={"type": "calendar", "every": "year"}).idle_timeout_ms == 86_400_000
    said = spec(idle_timeout="5s")
    assert (said.idle_timeout_ms, said.idle_learns) == (5_000, False)
    never = spec(idle_timeout=False)
    assert (never.idle_timeout_ms, never.idle_learns) == (None, False)


def test_corrections_come_at_once_gathered_or_not_at_all() -> None:
    assert spec().corrections == "at_once"
    gathered = spec(corrections={"every": "5s"})
    assert (gathered.corrections, gathered.corrections_every_ms) == ("every", 5_000)
    assert spec(corrections=False).corrections == spec(corrections="off").corrections == "off"


def test_the_extras_of_a_window_reach_its_spec() -> None:
    made = spec(
        fields=["a", "b"],
        early={"every": "10s", "count": 3},
        max_keys={"limit": 9, "policy": "sample"},
        publish={"retain": True},
        options={"percentiles": [50, 99]},
        priority="high",
    )
    assert made.fields == ("a", "b")
    assert (made.early_every_ms, made.early_count) == (10_000, 3)
    assert (made.max_keys, made.max_keys_policy) == (9, "sample")
    assert (made.retain, made.priority) == (True, Priority.HIGH)
    assert dict(made.options) == {"percentiles": [50, 99]}
    assert spec(max_keys=5).max_keys == 5


@pytest.mark.parametrize(
    ("topic", "key", "watermark"),
    [
        ("a/{device}", "{device}", "per_key"),
        ("a/{site}/{device}", "{device}@{site}", "per_key"),
        ("a/{site}/{device}", "{device}", "shared"),
        ("a/{device}/+", "{device}", "shared"),
        ("a/{device}/#", "{device}", "shared"),
        ("a/{rest...}", "{rest}", "per_key"),
        ("a/{device}", "", "shared"),
        ("a/{device}", "{device}/{name}", "shared"),
        ("a/b", "", "shared"),
    ],
)
def test_the_watermark_is_per_key_where_one_topic_feeds_one_key(topic: str, key: str, watermark: str) -> None:
    assert spec(topic, key=key).watermark == watermark


def test_a_watermark_that_is_given_stays() -> None:
    assert spec(key="{device}", watermark="shared").watermark == "shared"


def test_a_variable_fills_a_text_and_a_default_an_unset_one() -> None:
    text = 'gateway: {id: "${ID}-${N:-1}"}\nroutes: [{name: r, topic: "a$$b/${EMPTY:-x}"}]\n'
    config = parse_config(text, environ={"ID": "plant", "EMPTY": ""})
    assert (config.gateway.id, config.routes[0].topic) == ("plant-1", "a$b/x")


def test_an_empty_variable_is_no_user_and_no_password() -> None:
    local = parse(local={"username": "${NOBODY:-}", "password": "${NOBODY:-}"}).local
    assert (local.username, local.password) == (None, None)


def cloud_password(config: Config) -> str:
    assert config.cloud is not None and isinstance(config.cloud.password, SecretStr)
    return str(config.cloud.password.get_secret_value())


def test_a_password_comes_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    text = "gateway: {id: g}\nroutes: [{name: r, topic: a}]\ncloud: {url: mqtt://c, password_file: secret}"
    assert cloud_password(parse_config(text, tmp_path)) == "s3cret"


def test_a_password_is_never_shown() -> None:
    config = parse(cloud={"url": "mqtt://c", "password": "s3cret"})
    shown = f"{config!r} {config} {config.model_dump()} {config.model_dump_json()} {warnings_of(config)}"
    assert "s3cret" not in shown
    assert cloud_password(config) == "s3cret"


def test_a_configuration_never_changes() -> None:
    config = parse()
    with pytest.raises(ValidationError):
        config.gateway.id = "other"
    with pytest.raises(TypeError):
        config.routes[0].fields["x"] = "y"  # type: ignore[index]


def test_what_costs_a_guarantee_is_a_warning() -> None:
    config = parse(
        routes=[{"name": "all", "topic": "#", "qos": 0}, {"name": "again", "topic": "{x...}"}],
        buffer={"synchronous": "normal"},
        cloud={"url": "mqtt://far", "password": "p", "protocol": "3.1.1", "tls": {"insecure": True}},
    )
    told = "\n".join(warnings_of(config))
    for word in (
        "itself publishes",
        "QoS 0",
        "never used",
        "POWER LOSS",
        "unencrypted",
        "3.1.1",
        "insecure",
    ):
        assert word in told


@pytest.mark.parametrize("protocol, words", [("3.1.1", ["one and rest overlap", "a/+/#"]), ("5", [])])
def test_routes_that_overlap_say_what_is_subscribed_to_instead(protocol: str, words: list[str]) -> None:
    config = parse(
        local={"url": "mqtt://here", "protocol": protocol},
        routes=[{"name": "one", "topic": "a/{x}/t"}, {"name": "rest", "topic": "a/d1/#"}],
    )
    told = "\n".join(warnings_of(config))
    assert all(word in told for word in words)
    assert bool(told) is bool(words)


def test_a_plain_configuration_has_no_warnings() -> None:
    assert warnings_of(parse()) == ()


def test_the_schema_describes_every_key_and_writes_quantities_as_text() -> None:
    schema = json_schema()
    buffer = schema["$defs"]["Buffer"]["properties"]
    assert buffer["group_commit"]["type"] == "string"
    assert buffer["group_commit"]["default"] == "100ms"
    assert buffer["synchronous"]["enum"] == ["full", "normal"]
    for name, section in schema["$defs"].items():
        for key, value in section.get("properties", {}).items():
            described = value.get("description") or "$ref" in value or "const" in value
            assert described, f"{name}.{key} has no description"


def test_a_file_that_cannot_be_read_is_a_config_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"nope\.yaml: No such file"):
        load_config(tmp_path / "nope.yaml")


def test_a_file_that_is_no_text_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_bytes(b"gateway: {id: \xff}")
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    assert raised.value.problems[0].startswith("gateway.yaml:1: not UTF-8")


def test_a_window_with_a_topic_reads_what_no_route_covers(tmp_path: Path) -> None:
    text = """
gateway: {id: a}
routes: [{name: plain, topic: "a/{device}"}]
windows:
  - {name: covered, topic: "a/{device}", key: "{device}", window: {type: tumbling, size: 1m}}
  - {name: alone, topic: "b/{device}", field: value, key: "{device}", window: {type: tumbling, size: 1m}}
"""
    config = parse_config(text, tmp_path, "gateway.yaml")
    assert [(spec.name, spec.topic) for spec in config.route_specs()] == [
        ("plain", "a/{device}"),
        ("window-alone", "b/{device}"),
    ]


def test_with_neither_route_nor_topic_there_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("gateway: {id: a}\n", tmp_path, "gateway.yaml")
    assert "needs at least one route, or a window with a topic" in caught.value.problems[0]
