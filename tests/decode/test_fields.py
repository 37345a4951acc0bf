"""A field's value: parsed, mapped, scaled, computed, filtered; and that words and absence are never 0."""

import json
import subprocess
import sys
from typing import Any

import pytest

from gateway.config import parse_config
from gateway.core.errors import ConfigError
from gateway.decode.routes import Decoded, RouteTable
from tests.support.decoding import decode_with

NOW_MS = 1_777_593_600_000


def table(fields: dict[str, Any] | None = None, **route: Any) -> RouteTable:
    entry = {"name": "r", "topic": "d/{device}", **({"fields": fields} if fields else {}), **route}
    return RouteTable(parse_config(json.dumps({"gateway": {"id": "g"}, "routes": [entry]})).route_specs())


def decode(payload: object, fields: dict[str, Any] | None = None, **route: Any) -> Decoded:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return decode_with(table(fields, **route), "d/x7", data, NOW_MS)


def only(decoded: Decoded) -> dict[str, object]:
    (sample,) = decoded.samples
    return dict(sample.fields)


# scale, offset, unit


def test_a_register_becomes_a_quantity_without_the_dust_of_binary_fractions() -> None:
    fields = {"c": {"from": "raw", "scale": 0.1, "offset": -40, "unit": "°C"}}
    assert only(decode({"raw": 637}, fields)) == {"c": 23.7}
    assert only(decode({"raw": "637"}, fields)) == {"c": 23.7}
    refused: list[object] = [None, "on", True, [1], {}, ""]
    for value in refused:
        decoded = decode({"raw": value}, fields)
        assert (only(decoded), decoded.misses) == ({}, ("c",))


# map


def test_words_are_what_the_map_says_and_all_else_is_a_miss() -> None:
    fields = {"open": {"from": "contact", "map": {"OPEN": 1, "CLOSED": 0, "on": 1, "true": 1, "2": 0.5}}}
    for value, number in (("OPEN", 1), ("CLOSED", 0), ("on", 1), (True, 1), (2, 0.5), ("2", 0.5), (2.0, 0.5)):
        assert only(decode({"contact": value}, fields)) == {"open": number}
    refused: list[object] = ["open", "unavailable", "", None, 0, False, [], {"OPEN": 1}]
    for word in refused:
        decoded = decode({"contact": word}, fields)
        assert (only(decoded), decoded.misses) == ({}, ("open",))
    assert decode({}, fields).misses == ("open",)


def test_the_words_of_yaml_are_words_in_a_map() -> None:
    text = """
gateway: {id: g}
routes:
  - {name: r, topic: d/+, decoder: text, fields: {v: {from: "@", map: {on: 1, off: 0, no: 0, 1: 1}}}}
"""
    routes = RouteTable(parse_config(text).route_specs())
    values = {
        word: only(decode_with(routes, "d/x", word, NOW_MS)) for word in (b"on", b"off", b"no", b"1", b"0")
    }
    assert values == {b"on": {"v": 1}, b"off": {"v": 0}, b"no": {"v": 0}, b"1": {"v": 1}, b"0": {}}


# parse


def test_text_is_parsed_as_number_json_hexadecimal_or_base64() -> None:
    fields = {
        "n": {"from": "n", "parse": "number"},
        "unit": {"from": "u", "parse": "number", "scale": 2},
        "inner": {"from": "j.a[1].t", "parse": "json"},
        "whole": {"from": "j2", "parse": "json"},
        "reg": {"from": "x", "parse": "hex"},
        "text": {"from": "b", "parse": "base64"},
    }
    payload = {"n": "0x1F", "u": "-3,5 °C", "j": '{"a": [0, {"t": "18"}]}', "j2": "4", "x": "ff", "b": "b2s="}
    assert only(decode(payload, fields)) == {
        **{"n": 31, "unit": -7.0, "inner": 18, "whole": 4},
        **{"reg": 255, "text": "ok"},
    }
    broken = {"n": "warm", "u": True, "j": "{", "j2": [1], "x": "0xzz", "b": "?"}
    assert set(decode(broken, fields).misses) == fields.keys()


def test_a_payload_that_is_a_word_with_a_unit_is_parsed_too() -> None:
    assert only(decode(b"55,5 %", {"h": {"from": "@", "parse": "number"}}, decoder="text")) == {"h": 55.5}


# compute and where


def test_a_field_is_computed_over_fields_members_and_levels_and_other_computed_fields() -> None:
    fields = {
        "t": "climate.t",
        "dew": {"compute": "t - (100 - h) / 5"},
        "twice": {"compute": "dew * 2", "scale": 0.5, "offset": 1},
        "here": {"compute": "device == 'x7'"},
    }
    assert only(decode({"climate": {"t": 20}, "h": 60}, fields)) == {
        **{"t": 20, "dew": 12.0, "twice": 13.0, "here": True}
    }


@pytest.mark.parametrize(
    "expression", ["t + nothing", "t / 0", "sqrt(-1 - t)", "word + t", "log(0)", "null_ + 1", "[t]", "t.x"]
)
def test_an_error_an_absent_name_and_what_is_no_number_are_misses(expression: str) -> None:
    decoded = decode({"t": 3, "word": "w", "null_": None}, {"t": "t", "c": {"compute": expression}})
    assert (only(decoded), decoded.misses) == ({"t": 3}, ("c",))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("t * 2", 7.0),
        ("int(t) / 2", 1.5),
        ("size(word) * t", 10.5),
        ("round(t) + floor(t) + ceil(t)", 11.0),
        ("round(t / 3, 2)", 1.17),
        ("min(t, 2, 9) + max(t, 1)", 5.5),
        ("abs(-t) + pow(2, 3)", 11.5),
        ("exp(0) + log10(100)", 3.0),
        ("t > 3 ? 1 : 0", 1.0),
        ("0x10 + 1e1", 26.0),
        ("word == 'two 2' ? 2 : 3", 3.0),
        ("10 - 2 - t", 4.5),
    ],
)
def test_every_number_is_a_double_and_so_is_every_literal(expression: str, value: float) -> None:
    assert only(decode({"t": 3.5, "word": "abc"}, {"c": {"compute": expression}}))["c"] == pytest.approx(
        value
    )


def test_what_where_refuses_is_counted_and_keeps_its_time_and_what_it_cannot_judge_is_a_miss() -> None:
    route: dict[str, Any] = {
        "readings": "@",
        "fields": {"t": "t"},
        "where": "quality == 'good' && t > -40",
        "timestamp_path": "at",
        "timestamp_format": "unix_ms",
        "timestamp": "trusted",
    }
    rows = [
        {"t": 1, "quality": "good", "at": NOW_MS - 3000},
        {"t": -50, "quality": "good", "at": NOW_MS - 2000},
        {"t": 2, "quality": "bad", "at": NOW_MS - 1000},
        {"t": 3, "at": NOW_MS - 4000},
    ]
    decoded = decode(rows, **route)
    assert [dict(sample.fields) for sample in decoded.samples] == [{"t": 1}]
    assert (decoded.filtered, decoded.misses, decoded.problem) == (2, ("@where",), None)
    assert decoded.event_time_ms == NOW_MS - 1000


def test_a_single_reading_is_filtered_too() -> None:
    decoded = decode({"t": 1}, where="t > 2")
    assert (decoded.samples, decoded.filtered, decoded.event_time_ms) == ((), 1, NOW_MS)
    assert decode({"t": 3}, where="t > 2").filtered == 0


@pytest.mark.parametrize(
    ("route", "told"),
    [
        ({"where": "t >"}, "routes[0].where: 't >' is not a CEL expression"),
        (
            {"fields": {"a": {"compute": "wurzel(t)"}}},
            "fields.a.compute: CEL has no function wurzel()",
        ),
        ({"where": "[1].all(x, x > t)"}, "routes[0].where: loops over lists"),
        ({"where": "t" * 3000}, "routes[0].where: the expression is too long"),
        ({"fields": {"a": {"scale": 2}}}, "routes[0].fields.a: a field has either from or compute"),
        ({"fields": {"a": {"from": "a", "compute": "b"}}}, "either from or compute"),
        ({"fields": {"a": {"compute": "b", "map": {"x": 1}}}}, "has no map or parse"),
        ({"fields": {"a": {"from": "a", "sclae": 2}}}, "a.sclae: unknown key (did you mean 'scale'?)"),
        ({"fields": {"a": {"from": "foo(@)"}}}, "fields.a.from: JMESPath has no function foo()"),
        ({"fields": {"a": {"from": "{devcie}"}}}, "the topic has no level {devcie}"),
        ({"fields": {"a": {"from": "a", "parse": "nubmer"}}}, "(did you mean 'number'?)"),
        ({"csv": {"separator": ";"}}, "routes[0].csv: decoder json has no lines to cut"),
        ({"decoder": "csv", "csv": {"decimal": ","}}, "the decimal sign is also the separator"),
        ({"decoder": "csv", "csv": {"separator": ";;"}}, "must be one character"),
        ({"payload": {"charset": "utf-99"}}, "unknown character set 'utf-99'"),
        ({"payload": {"compression": "zip"}}, "routes[0].payload.compression: must be"),
    ],
)
def test_what_cannot_work_is_told_with_its_place(route: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        table(**route)
    assert told in raised.value.problems[0]


def test_a_configuration_without_expressions_does_not_load_their_library() -> None:
    code = (
        "import sys; from gateway.config import parse_config; from gateway.decode.routes import RouteTable\n"
        "RouteTable(parse_config('gateway: {id: g}\\nroutes: [{name: r, topic: a}]').route_specs())\n"
        "sys.exit('cel' in sys.modules or 'msgpack' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_expression_loads_no_interactive_shell() -> None:
    """CEL brings one along, with a terminal library and a highlighter: 24 MiB that no route uses."""
    code = (
        "import sys; from gateway.decode.formulas import Formula\n"
        "assert Formula('a + 1')({'a': 1}) == 2\n"
        "sys.exit('prompt_toolkit' in sys.modules or 'pygments' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
