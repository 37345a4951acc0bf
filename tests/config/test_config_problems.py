"""Every problem of a file at once, each with its line, its place and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import parse_config
from gateway.core.errors import ConfigError

HEAD = "gateway: {id: g}\n"
ROUTE = "routes: [{name: tasmota, topic: 'tele/{device}/SENSOR', fields: {temperature: a.b}}]\n"
SPAN = "window: {type: count, count: 1}"


def window(parts: str, name: str = "w", route: str = "tasmota", field: str = "temperature") -> str:
    """A windows section in one line."""
    return f"windows: [{{name: {name}, route: {route}, field: {field}, {parts}}}]"


def problems(text: str, environ: dict[str, str] | None = None, base_dir: Path | str = ".") -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        parse_config(text, base_dir, "g.yaml", environ or {})
    return raised.value.problems


def only(text: str, **where: Any) -> str:
    (problem,) = problems(text, **where)
    return problem


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
gateway: {id: plant 7, data_dri: x}
local: {url: mqtt://me:pw@host, protocol: 4}
routes:
  - name: tasmota
    topic: tele/{device}/SENSOR
    decoder: jsn
    fields: {temperature: a-b, pressure: foo(@)}
  - name: good
    topic: a/{x}
    fields: {t: t}
windows:
  - name: w
    route: god
    window: {type: tumbling, size: 1m}
buffer: {max_size: 2GB/s, group_commit: 100}
clod: {}
"""
    found = problems(text)
    assert [problem.split(": ")[0:2] for problem in found] == [
        ["g.yaml:1", "gateway.id"],
        ["g.yaml:1", "gateway.data_dri"],
        ["g.yaml:2", "local.url"],
        ["g.yaml:2", "local.protocol"],
        ["g.yaml:6", "routes[0].decoder"],
        ["g.yaml:7", "routes[0].fields.temperature"],
        ["g.yaml:7", "routes[0].fields.pressure"],
        ["g.yaml:13", "windows[0].route"],
        ["g.yaml:15", "buffer.max_size"],
        ["g.yaml:15", "buffer.group_commit"],
        ["g.yaml:16", "clod"],
    ]
    assert "pw" not in "".join(found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "gateway: {id: g, data_dri: x}\n" + ROUTE,
            "gateway.data_dri: unknown key (did you mean 'data_dir'?)",
        ),
        (HEAD + ROUTE + "bufer: {}", "bufer: unknown key (did you mean 'buffer'?)"),
        (HEAD + ROUTE + "buffer: {retry: {max_atempts: 3}}", "(did you mean 'max_attempts'?)"),
        (
            HEAD + ROUTE + window("window: {type: hopping, size: 1m, slid: 1s, slide: 1s}"),
            "windows[0].window.slid: unknown key (did you mean 'slide'?)",
        ),
        (HEAD + ROUTE + window("window: {type: tumbing, size: 1m}"), "(did you mean 'tumbling'?)"),
        (
            HEAD + ROUTE + window(SPAN, route="tasmoda"),
            "windows[0].route: there is no route tasmoda (did you mean 'tasmota'?)",
        ),
        (
            HEAD + ROUTE + window(SPAN, field="temprature"),
            "windows[0].field: no such field: temprature (did you mean 'temperature'?)",
        ),
        (
            HEAD + ROUTE + window("key: '{devise}', " + SPAN),
            "windows[0].key: no level or field is called devise (did you mean 'device'?)",
        ),
        (HEAD + "routes: [{name: r, topic: a, decoder: sparkplug}]", "(did you mean 'sparkplug_b'?)"),
        (HEAD + "routes: [{name: r, topic: a, priority: hihg}]", "(did you mean 'high'?)"),
        (HEAD + "routes: [{name: r, topic: a, timestamp_format: unixms}]", "did you mean 'unix_ms'?"),
        (
            HEAD + "routes: [{name: r, topic: a, timestamp_timezone: Europe/Berln}]",
            "did you mean 'Europe/Berlin'?",
        ),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest_valid_one(text: str, told: str) -> None:
    assert told in only(text)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("local: {url: 'http://x'}", "local.url: is not a broker's address; write mqtt://"),
        ("local: {url: 'mqtt://u:p@x'}", "local.url: must not hold a user or a password"),
        ("local: {url: 'mqtt://x:99999'}", "local.url: is not a network address"),
        ("local: {protocol: 5}", "local.protocol: the embedded broker speaks only 3.1.1"),
        ("local: {keepalive: 10}", "local.keepalive: duration 10 has no unit; write 10s or 10ms"),
        ("local: {keepalive: 100ms}", "between 1s and 65535s"),
        ("local: {listen: 8080}", "local.listen: is not a network address; write host:port"),
        ("local: {username: 5}", "local.username: must be text; put a number or a yes/no in quotes"),
        ("local: {tls: {cert_file: nope.pem}}", "local.tls.cert_file: there is no file nope.pem"),
        ("cloud: {}", "cloud.url: is required"),
        ("cloud: {url: embedded}", "cloud.url: is not a broker's address"),
        ("cloud: {url: 'mqtt://c', bandwidth: 1MiB}", "is not a rate; write 1MiB/s"),
        ("cloud: {url: 'mqtt://c', connections: 0}", "cloud.connections: must be greater than or equal to 1"),
        ("cloud: {url: 'mqtt://c', ack_timeout: 0}", "cloud.ack_timeout: must be more than zero"),
        ("buffer: {synchronous: off}", "buffer.synchronous: must be full or normal"),
        ("buffer: {retry: {backoff_min: 2m, backoff_max: 1m}}", "backoff_max: is shorter than backoff_min"),
        ("buffer: 5", "buffer: must be a section with keys of its own"),
        ("time: {ntp: pool.ntp.org}", "time.ntp: must be a list"),
        ("plugins: {path: nowhere}", "plugins.path: "),
        (
            window("plugin: stat, " + SPAN),
            "windows[0].plugin: there is no plugin stat (did you mean 'stats'?)",
        ),
        ("flow: {memory: lots}", "flow.memory: 'lots' is neither auto nor a size"),
        ("windows: {}", "windows: must be a list"),
        (
            "windows: [{name: w, window: {type: count, count: 1}}]",
            "windows[0].topic: a window reads either a route or a topic",
        ),
        ("windows: [{name: w, route: tasmota, field: temperature}]", "windows[0].window: is required"),
        (window(SPAN, name="w/1"), "windows[0].name: a name has"),
        (window("window: {type: hopping, size: 1m, slide: 2m}"), "window.slide: is longer than the size"),
        (window("window: {type: hopping, size: 1m}"), "window.slide: is required"),
        (window("window: {type: global, trigger: {}}"), "window.trigger: needs count, every, or both"),
        (window("fields: [temperature], " + SPAN), "windows[0].fields: give field or fields"),
        (window("early: {}, " + SPAN), "windows[0].early: needs every, count, or both"),
    ],
)
def test_a_wrong_value_is_told_with_what_would_be_right(section: str, told: str) -> None:
    problem = only(HEAD + ROUTE + section)
    assert problem.startswith("g.yaml:3: ")
    assert told in problem


@pytest.mark.parametrize(
    ("routes", "told"),
    [
        ("[{name: r, topic: a}, {name: r, topic: b}]", "routes[1].name: r is also the name of routes[0]"),
        (
            "[{name: r, topic: 'a/{x}', fields: {f: '{y}'}}]",
            "routes[0].fields.f: the topic has no level {y}; there is {topic}, {x}",
        ),
        ("[{name: r, topic: 'a/#/b'}]", "routes[0].topic: 'a/#/b': '#' stands alone and only at the end"),
        ("[{name: r, topic: 'a/{x}/{x}'}]", "names a level twice"),
        ("[{name: r, topic: a, fields: {'1f': x}}]", "routes[0].fields.1f: a field name has"),
        ("[{name: r, topic: a, timestamp_min: then}]", "neither a time nor a duration"),
        ("[]", "routes: "),
        ("[5]", "routes[0]: must be a section"),
    ],
)
def test_a_wrong_route_is_told(routes: str, told: str) -> None:
    assert told in only(f"{HEAD}routes: {routes}")


def test_a_window_cannot_gather_raw_bytes() -> None:
    text = HEAD + "routes: [{name: r, topic: a, decoder: raw}]\n" + window(SPAN, route="r", field="value")
    assert "windows[0].route: r reads raw bytes" in only(text)


def test_names_are_not_checked_against_a_route_that_is_itself_broken() -> None:
    text = HEAD + "routes: [{name: r, topic: a, qos: 7}]\n" + window(SPAN, route="r", field="x")
    assert only(text).startswith("g.yaml:2: routes[0].qos: must be 0, 1 or 2")


def test_a_password_may_not_come_from_two_places(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("x")
    text = HEAD + ROUTE + "cloud: {url: 'mqtt://c', password: s3cret, password_file: p}"
    problem = only(text, base_dir=tmp_path)
    assert "cloud.password: give password or password_file, not both" in problem
    assert "s3cret" not in problem


def test_a_decoder_whose_package_is_missing_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.decode.decoders.find_spec", lambda module: None)
    problem = only(HEAD + "routes: [{name: r, topic: a, decoder: cbor}]")
    assert "routes[0].decoder" in problem
    assert "pip install 'mqtt-edge-gateway[cbor]'" in problem


def test_a_variable_that_is_not_set_is_told_once_at_its_place() -> None:
    problem = only(HEAD + ROUTE + "local: {keepalive: '${NOPE}'}")
    assert problem.startswith("g.yaml:3: local.keepalive: the environment variable NOPE is not set")


@pytest.mark.parametrize("value", ["hunter2", "hun'ter\"2", "hun\nter"])
def test_what_came_from_a_variable_is_never_shown(value: str) -> None:
    sections = (
        "local: {keepalive: '${S}', url: '${S}', listen: '${S}'}",
        "buffer: {max_size: '${S}'}",
        "flow: {memory: '${S}'}",
        window(SPAN, route="'${S}'", field="'${S}'"),
    )
    text = HEAD + ROUTE + "\n".join(sections)
    told = "\n".join(problems(text, environ={"S": value}))
    assert value not in told
    assert repr(value)[1:-1] not in told
    assert "local.keepalive: '${S}' is not a duration" in told


def test_a_key_that_stands_twice_is_a_problem() -> None:
    problem = only("gateway: {id: g}\n" + ROUTE + "buffer:\n  max_size: 1GiB\n  max_size: 2GiB\n")
    assert problem == "g.yaml:5: buffer.max_size: stands here a second time; the first is in line 4"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "g.yaml:1: the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("gateway: [", "g.yaml:1: not valid YAML"),
        ("a: 1\n\tb: 2\n", "g.yaml:2: not valid YAML"),
        ("gateway: *nowhere", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("- 1", "must be a section"),
        ("[" * 100 + "]" * 100, "nested more than"),
        ("[" * 20_000, "nested too deeply"),
        ("a: &a [*a]", "nested more than"),
        ("x" * (1024 * 1024 + 1), "larger than 1 MiB"),
        ("gateway: !!python/object/apply:os.system [ls]\n" + ROUTE, "gateway: must be a section"),
        ("gateway: {id: !secret x}\n" + ROUTE, "the YAML tag !secret is not used here"),
        ("? {a: b}\n: 1\n" + HEAD + ROUTE, "a key must be text"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(text: str, told: str) -> None:
    assert told in "\n".join(problems(text))


def test_aliases_that_multiply_are_refused() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    assert "do aliases repeat each other?" in only(bomb)


@given(st.text(max_size=200))
def test_no_text_makes_the_reader_fail_in_another_way(text: str) -> None:
    try:
        parse_config(text, environ={})
    except ConfigError as exc:
        assert exc.problems


KEYS = st.sampled_from(
    ["gateway", "id", "routes", "windows", "window", "type", "topic", "name", "key", "fields"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
SHAPES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


@given(SHAPES)
def test_no_shape_makes_the_reader_fail_in_another_way(data: object) -> None:
    try:
        parse_config(json.dumps(data), environ={})
    except ConfigError as exc:
        assert exc.problems


def test_an_unknown_key_of_a_shape_is_told_at_its_place_where_type_and_key_share_a_name() -> None:
    found = only(CONFIG_OF_A_COUNT_WINDOW)
    assert "windows[0].window.step: unknown key" in found


CONFIG_OF_A_COUNT_WINDOW = """
gateway: {id: g}
routes: [{name: r, topic: "a/{d}", decoder: json, fields: {v: v}}]
windows: [{name: w, route: r, field: v, window: {type: count, count: 5, step: 2}}]
"""


@pytest.mark.parametrize(
    ("compute", "told"),
    [
        ({"d": "a.mean - c.mean"}, "c is no field of this window; there is a, b"),
        ({"d": "a.mean -"}, "is not a CEL expression"),
        ({"a": "b.mean"}, "a is a field already"),
    ],
)
def test_what_a_window_computes_is_checked(compute: dict[str, str], told: str) -> None:
    text = f"""
gateway: {{id: g}}
routes: [{{name: r, topic: "x/{{d}}", decoder: json, fields: {{a: a, b: b}}}}]
windows:
  - {{name: w, route: r, fields: [a, b], compute: {json.dumps(compute)}, window: {{type: count, count: 5}}}}
"""
    assert told in only(text)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("audit: off", "needs audit records"),
        ("topics: {audit: off}", "needs audit records"),
        ("format: thingsboard", "needs audit records"),
        ("topics: {batch: 'x/{id}'}", "take out cloud.topics.batch"),
    ],
)
def test_only_what_gateway_receive_can_read_is_confirmed(more: str, problem: str) -> None:
    found = only(f"{HEAD}{ROUTE}cloud: {{url: 'mqtt://cloud', confirm: receiver, {more}}}\n")
    assert problem in found
    assert "cloud" in found
