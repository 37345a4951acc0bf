"""Formats with a reading a line, and the binary ones: NDJSON, CSV, line protocol, MessagePack, SenML-CBOR."""

from datetime import UTC, datetime
from typing import Any

import cbor2
import msgpack
import orjson
import pytest

from gateway.core.errors import DecodeError
from gateway.decode.decoders import decoder
from gateway.decode.decoders.delimited import CsvSpec
from gateway.decode.routes import Decoded, Route, RouteSpec

NOW_MS = 1_777_593_600_000


def decode(payload: bytes | str, **parts: Any) -> Decoded:
    data = payload.encode() if isinstance(payload, str) else payload
    return Route(RouteSpec("r", "d/{device}", **parts)).decode("d/x", {"device": "x"}, data, NOW_MS)


def readings(decoded: Decoded) -> list[dict[str, object]]:
    assert decoded.problem is None
    return [dict(sample.fields) for sample in decoded.samples]


# NDJSON


def test_each_line_of_ndjson_is_a_reading() -> None:
    assert readings(decode('{"t": 18.5}\r\n\n{"t": 19.5}', decoder="ndjson")) == [{"t": 18.5}, {"t": 19.5}]


def test_a_broken_line_is_a_miss_and_costs_no_other() -> None:
    decoded = decode('{"t": 1}\n{"t": \n{"t": 3}', decoder="ndjson", fields={"t": "t"})
    assert readings(decoded) == [{"t": 1}, {}, {"t": 3}]
    assert decoded.misses == ("t",)
    assert decode("{\n}\n", decoder="ndjson").problem == "ndjson"


# CSV


def test_cells_get_the_names_of_the_columns_and_numbers_are_numbers() -> None:
    layout = CsvSpec(("at", "t", "h", "state"), ";", ",")
    decoded = decode(
        "2026-05-01T00:00:00Z;21,5;040;ok\n2026-05-01T00:00:01Z;-0,5;;\n", decoder="csv", csv=layout
    )
    assert readings(decoded) == [
        {"at": "2026-05-01T00:00:00Z", "t": 21.5, "h": 40, "state": "ok"},
        {"at": "2026-05-01T00:00:01Z", "t": -0.5},
    ]


def test_the_header_names_the_columns_where_nothing_else_does() -> None:
    layout = CsvSpec(header=True)
    assert readings(decode('t, "h, rel"\n1, "2"\n', decoder="csv", csv=layout)) == [{"t": 1, "h, rel": 2}]
    assert decode("t,h\n", decoder="csv", csv=layout).problem == "csv"


def test_without_names_cells_are_numbered() -> None:
    assert readings(decode("B7,00-00,019.5,N", decoder="csv")) == [
        {"c1": "B7", "c2": "00-00", "c3": 19.5, "c4": "N"}
    ]


def test_a_line_with_more_cells_than_columns_is_a_miss_and_a_separator_at_the_end_is_none() -> None:
    decoded = decode("1,2\n1,2,3\n4,5,\n6\n", decoder="csv", csv=CsvSpec(("a", "b")), fields={"b": "b"})
    assert readings(decoded) == [{"b": 2}, {}, {"b": 5}, {}]
    assert decoded.misses == ("b",)


def test_an_empty_cell_and_a_word_are_never_zero() -> None:
    decoded = decode("n/a,\n", decoder="csv", csv=CsvSpec(("t", "h")), fields={"t": "t", "h": "h"})
    assert (readings(decoded), decoded.misses) == ([{"t": "n/a"}], ("h",))


# Line protocol


def test_a_line_of_the_line_protocol_is_a_reading_at_its_own_time() -> None:
    line = (
        r'weather\ east,site=hall\ 7,unit=C temp=-3.25,n=12i,u=7u,up=T,note="a \"b\", c" 1777593600123456789'
    )
    decoded = decode(line, decoder="influx", timestamp="trusted")
    assert readings(decoded) == [
        {
            "measurement": "weather east",
            "time": 1777593600123456789,
            "site": "hall 7",
            "unit": "C",
            "temp": -3.25,
            "n": 12,
            "u": 7,
            "up": True,
            "note": 'a "b", c',
        }
    ]
    assert decoded.event_time_ms == NOW_MS + 123


def test_lines_without_a_time_and_comments_are_read_and_broken_ones_are_misses() -> None:
    decoded = decode("# of today\nm v=1\nm v=\nm v=2 soon\nm,a v=3\n", decoder="influx", fields={"v": "v"})
    assert readings(decoded) == [{"v": 1.0}, {}, {}, {}]
    assert decoded.event_time_ms == NOW_MS
    assert decode("no line", decoder="influx").problem == "influx"


def test_a_coarser_time_is_read_as_the_route_says() -> None:
    decoded = decode("m v=1 1777593599", decoder="influx", timestamp_format="unix", timestamp="trusted")
    assert decoded.event_time_ms == NOW_MS - 1000


def test_a_line_made_to_be_slow_is_refused_in_passing() -> None:
    for line in ("m," + "a=" * 50_000, 'm v="' + '\\"' * 50_000, "m " + "v=1," * 50_000, "\\" * 100_000):
        with pytest.raises(DecodeError):
            decoder("influx").parse(line.encode(), NOW_MS)


# MessagePack


def test_messagepack_is_reduced_to_what_json_can_say() -> None:
    item = {
        "t": 18.25,
        7: [1, None, True],
        b"old": 1,
        b"\xff": 2,
        "raw": b"\x01\xff",
        "at": datetime(2026, 5, 1, tzinfo=UTC),
        "ext": msgpack.ExtType(9, b"x"),
        "big": 2**64 - 1,
    }
    assert decoder("msgpack").parse(msgpack.packb(item, datetime=True), NOW_MS) == {
        "t": 18.25,
        "7": [1, None, True],
        "old": 1,
        "ff": 2,
        "raw": "01ff",
        "at": "2026-05-01T00:00:00+00:00",
        "ext": None,
        "big": 2**64 - 1,
    }


@pytest.mark.parametrize(
    "payload", [b"21.5", b"5", b"\x81", b"\x91" * 2000, b"\xc1", b"\xdf\xff\xff\xff\xff"]
)
def test_text_and_what_is_cut_off_are_no_messagepack(payload: bytes | str) -> None:
    assert decode(payload, decoder="msgpack").problem == "msgpack"


# SenML in CBOR


def test_senml_in_cbor_reads_as_its_json_twin() -> None:
    pack = [{-2: "/3303/1/", -3: 1777593590, 0: "5700", 2: 18.5, 1: "Cel"}, {0: "5701", 3: "ok", 6: -10}]
    decoded = decode(cbor2.dumps(pack), decoder="senml", timestamp="trusted")
    assert readings(decoded) == [
        {"name": "/3303/1/5700", "value": 18.5, "unit": "Cel"},
        {"name": "/3303/1/5701", "value": "ok", "unit": ""},
    ]
    assert [sample.time_ms - NOW_MS for sample in decoded.samples] == [-10_000, -20_000]


@pytest.mark.parametrize("base", [None, "unknown", True, "20"])
def test_a_base_value_that_is_no_number_is_a_miss_and_not_zero(base: object) -> None:
    pack = [{"bn": "x", "bv": base, "v": 1.5}, {"bv": 20, "v": 1.5}]
    decoded = decode(orjson.dumps(pack), decoder="senml")
    assert [sample.fields.get("value") for sample in decoded.samples] == [None, 21.5]
    assert decoded.misses == ("value",)


@pytest.mark.parametrize("item", [{"a": 1}, [1], [{-1: 99, 0: "n", 2: 1}], 7])
def test_cbor_that_is_no_senml_is_refused(item: Any) -> None:
    assert decode(cbor2.dumps(item), decoder="senml").problem is not None
