from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import ConfigError
from gateway.core.events import Flag
from gateway.core.expressions import compile_expression
from gateway.core.timestamps import TimeBound
from gateway.decode.decoders import DECODER_NAMES
from gateway.decode.routes import (
    CACHED_TOPICS,
    MAX_READINGS,
    Decoded,
    Route,
    RouteSpec,
    RouteTable,
    field_names,
)
from gateway.timekeeping.normalize import SkewPolicy
from tests.support.decoding import decode_with, matched

NOW_MS = 1_777_593_600_000


def decode(payload: bytes, topic: str = "tele/pump/SENSOR", **parts: Any) -> Decoded:
    spec = RouteSpec(name="r", **{"topic": "tele/{device}/SENSOR", **parts})
    return decode_with(RouteTable([spec]), topic, payload, NOW_MS)


def only(decoded: Decoded) -> dict[str, object]:
    (sample,) = decoded.samples
    return dict(sample.fields)


# Which route takes a topic


def test_the_first_route_that_matches_takes_a_topic() -> None:
    table = RouteTable([RouteSpec("one", "a/{x}/c"), RouteSpec("two", "a/#"), RouteSpec("three", "a/b/c")])
    assert [matched(table, topic)[0].spec.name for topic in ("a/b/c", "a/b", "a/b/c/d")] == [
        "one",
        "two",
        "two",
    ]
    assert table.match("b") is None


def test_named_levels_are_read_from_the_topic() -> None:
    table = RouteTable([RouteSpec("r", "N/{portal}/{rest...}")])
    assert matched(table, "N/p1/Ac/Power")[1] == {"portal": "p1", "rest": "Ac/Power"}


def test_a_flood_of_topics_does_not_fill_the_memory() -> None:
    table = RouteTable([RouteSpec("r", "a/{x}")])
    for number in range(CACHED_TOPICS + 100):
        assert matched(table, f"a/{number}")[1] == {"x": str(number)}
    table.match("a/" + "x" * 60_000)
    assert table._remembered.cache_info().currsize == CACHED_TOPICS


def test_routes_with_one_filter_are_subscribed_once_with_the_higher_qos() -> None:
    table = RouteTable(
        [RouteSpec("a", "t/{x}", qos=0), RouteSpec("b", "t/+", qos=2), RouteSpec("c", "u/{r...}")]
    )
    assert table.subscriptions() == {"t/+": 2, "u/#": 1}


# Fields


def test_a_field_is_found_by_path_index_quoted_name_expression_and_level() -> None:
    payload = b'{"a":{"b":[1,{"c":2}]},"x-y":{"z":3},"n":[{"v":4},{"v":5}]}'
    fields = {
        "index": "a.b[0]",
        "inside": "a.b[1].c",
        "last": "n[-1].v",
        "quoted": '"x-y".z',
        "sum": "sum(n[*].v)",
        "device": "{device}",
        "from": "{topic}",
    }
    assert only(decode(payload, fields=fields)) == {
        "index": 1,
        "inside": 2,
        "last": 5,
        "quoted": 3,
        "sum": 9,
        "device": "pump",
        "from": "tele/pump/SENSOR",
    }


@pytest.mark.parametrize(
    "value", ["null", '{"a":1}', "[1]", "NaN", "Infinity"], ids=["null", "object", "list", "nan", "infinity"]
)
def test_what_is_no_scalar_is_a_counted_miss_and_never_zero(value: object) -> None:
    decoded = decode(f'{{"t":{value},"u":1}}'.encode(), fields={"t": "t", "u": "u"})
    assert (only(decoded), decoded.misses, decoded.problem) == ({"u": 1}, ("t",), None)


@pytest.mark.parametrize("path", ["t.x.y", "t[0]", "u.v", "u[5]", "max(t)", "nothing", "items(t)[0].key"])
def test_a_path_that_leads_nowhere_is_a_miss(path: str) -> None:
    assert decode(b'{"t":"text","u":[1]}', fields={"f": path}).misses == ("f",)


@pytest.mark.parametrize(
    ("payload", "value"), [(b"0", 0), (b'""', ""), (b"false", False), (b'"21.5"', "21.5"), (b"-0.0", 0.0)]
)
def test_a_payload_that_is_one_value_is_the_field_value(payload: bytes, value: object) -> None:
    assert only(decode(payload)) == {"value": value}


def test_an_object_without_named_fields_gives_its_top_level_scalars() -> None:
    assert only(decode(b'{"a":1,"b":"x","c":null,"d":{"e":1},"f":[1],"g":true}')) == {
        "a": 1,
        "b": "x",
        "g": True,
    }


# What cannot be decoded


@pytest.mark.parametrize(
    ("payload", "parts", "problem"),
    [
        (b"", {}, "empty"),
        (b"{", {}, "json"),
        (b"[1,2]", {}, "shape"),
        (b"on", {"decoder": "number"}, "number"),
        (b'{"a":1}', {"readings": "a"}, "readings"),
        (b"[" + b"1," * MAX_READINGS + b"1]", {"readings": "@"}, "too_many_readings"),
    ],
)
def test_what_cannot_be_decoded_is_told_flagged_and_takes_the_arrival_time(
    payload: bytes, parts: Any, problem: str
) -> None:
    decoded = decode(payload, **parts)
    assert (decoded.samples, decoded.event_time_ms, decoded.device_time_ms) == ((), NOW_MS, None)
    assert (decoded.problem, decoded.flags) == (problem, Flag.UNDECODED)


@pytest.mark.parametrize("payload", [b"", b"\xff\x00", b"{}"])
def test_a_raw_route_reads_nothing_and_finds_nothing_wrong(payload: bytes) -> None:
    decoded = decode(payload, decoder="raw")
    assert (decoded.samples, decoded.problem, decoded.flags) == ((), None, 0)


EXPRESSIONS = st.sampled_from(
    ["a", "a.b[0]", "items(@)", "sum(a)", "sort_by(@, &a)", "to_number(a)", "ceil(a)", "@"]
)


@pytest.mark.parametrize("decoder", DECODER_NAMES)
@given(
    payload=st.one_of(
        st.binary(max_size=100),
        st.sampled_from([b'{"a":[{"b":1},null]}', b'{"a":"1e999"}', b'[[1],"x"]', b'{"a":1e300}', b'"NaN"']),
    ),
    field=EXPRESSIONS,
    readings=st.none() | EXPRESSIONS,
    time=st.none() | EXPRESSIONS,
)
def test_decode_never_raises_whatever_the_bytes(
    decoder: str, payload: bytes, field: str, readings: str | None, time: str
) -> None:
    spec = RouteSpec(
        "r", "a/{x}", decoder=decoder, fields={"f": field}, readings=readings, timestamp_path=time
    )
    decoded = Route(spec).decode("a/b", {"x": "b"}, payload, NOW_MS)
    assert decoded.event_time_ms > 0
    assert (decoded.problem is None) or not decoded.samples


# Many readings in one message


def test_each_item_of_the_readings_is_a_sample_with_its_own_time() -> None:
    payload = b'{"rows":[{"v":2,"t":1777593500},{"v":1,"t":1777593400},{"v":3}],"t":1777593590}'
    decoded = decode(
        payload,
        readings="rows",
        fields={"v": "v"},
        timestamp_path="t",
        timestamp_format="unix",
        timestamp="trusted",
    )
    #          item's own time      item's own time      that of the message
    assert [(s.time_ms - NOW_MS, s.fields["v"]) for s in decoded.samples] == [
        (-100_000, 2),
        (-200_000, 1),
        (-10_000, 3),
    ]
    assert (decoded.event_time_ms, decoded.device_time_ms) == (NOW_MS - 10_000, NOW_MS - 10_000)


def test_an_item_that_is_no_reading_is_a_miss_and_the_others_stay() -> None:
    decoded = decode(b"[1,[2],null,3]", readings="@")
    assert [dict(sample.fields) for sample in decoded.samples] == [{"value": 1}, {}, {"value": 3}]
    assert set(decoded.misses) == {"@reading", "value"}


def test_a_message_without_readings_has_no_samples_and_no_problem() -> None:
    decoded = decode(b'{"rows":[]}', readings="rows")
    assert (decoded.samples, decoded.problem, decoded.event_time_ms) == ((), None, NOW_MS)


# Event time


def timed(payload: bytes, **parts: Any) -> Decoded:
    return decode(payload, fields={"v": "v"}, timestamp_path="t", timestamp_format="unix_ms", **parts)


def test_without_a_timestamp_path_the_arrival_time_counts_and_nothing_is_missed() -> None:
    decoded = decode(b'{"v":1}', fields={"v": "v"})
    assert (decoded.event_time_ms, decoded.device_time_ms, decoded.misses) == (NOW_MS, None, ())


@pytest.mark.parametrize("time", [b"0", b'""', b"null", b"-5", b"true", b'"soon"', b"[]"])
def test_a_time_that_is_not_usable_is_a_miss_and_the_arrival_time_counts(time: bytes) -> None:
    decoded = timed(b'{"v":1,"t":' + time + b"}")
    assert (decoded.event_time_ms, decoded.device_time_ms) == (NOW_MS, None)
    assert (decoded.misses, decoded.flags) == (("@timestamp",), 0)


def test_a_good_device_time_is_the_event_time() -> None:
    decoded = timed(b'{"v":1,"t":%d}' % (NOW_MS - 500))
    assert (decoded.event_time_ms, decoded.device_time_ms, decoded.flags) == (NOW_MS - 500, NOW_MS - 500, 0)
    assert decoded.samples[0].time_ms == NOW_MS - 500


def test_a_skewed_device_time_is_normalised_and_kept() -> None:
    decoded = timed(b'{"v":1,"t":1610}', skew=SkewPolicy())
    assert (decoded.event_time_ms, decoded.device_time_ms) == (NOW_MS, 1610)
    assert decoded.flags == Flag.CLOCK_SKEW | Flag.CORRECTED


def test_a_trusted_device_time_stays_however_old() -> None:
    decoded = timed(b'{"v":1,"t":1610}', timestamp="trusted")
    assert (decoded.event_time_ms, decoded.flags) == (1610, 0)


def test_a_route_by_arrival_keeps_the_device_time_beside_it() -> None:
    decoded = timed(b'{"v":1,"t":%d}' % (NOW_MS - 500), timestamp="ingest")
    assert (decoded.event_time_ms, decoded.device_time_ms) == (NOW_MS, NOW_MS - 500)
    assert decoded.flags == Flag.CORRECTED


@pytest.mark.parametrize(
    ("offset_ms", "usable"), [(-86_400_001, False), (-86_400_000, True), (60_000, True), (60_001, False)]
)
def test_a_time_outside_the_plausible_bounds_is_no_time(offset_ms: int, usable: bool) -> None:
    bounds = {
        "timestamp_min": TimeBound(86_400_000, relative=True),
        "timestamp_max": TimeBound(NOW_MS + 60_000),
    }
    decoded = timed(b'{"v":1,"t":%d}' % (NOW_MS + offset_ms), timestamp="trusted", **bounds)
    assert decoded.event_time_ms == (NOW_MS + offset_ms if usable else NOW_MS)
    assert decoded.misses == (() if usable else ("@timestamp",))


# Expressions are checked before the first message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a-b.c", "in quotes"),
        ("foo(@)", "no function foo"),
        ("length(a, b)", "takes 1 arguments, not 2"),
        ("[?a", "not a JMESPath"),
        ("temp / `10`", "scale: 0.1"),
        ("(a.b + c)*2", "compute"),
        ("{room}", "{device}"),
        ("", "not a JMESPath"),
    ],
)
def test_an_expression_that_cannot_work_is_an_error(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compile_expression(text, ["device"])
    assert told in f"{raised.value} {raised.value.hint}"


def test_the_fields_that_a_route_can_give_are_known_where_they_are_named() -> None:
    assert set(field_names("json", {"a": "b"}) or ()) == {"a"}
    assert field_names("json", {}) is None
    assert set(field_names("number", {}) or ()) == {"value"}
    assert set(field_names("senml", {}) or ()) == {"name", "value", "unit"}


# An item's time that cannot be one


def test_an_implausible_time_of_an_item_gives_way_to_the_next_path_and_to_that_of_the_message() -> None:
    payload = b'{"rows":[{"v":1,"up":1839},{"v":2,"up":7,"at":1777593580},{"v":3}],"sent":1777593590}'
    decoded = decode(
        payload,
        readings="rows",
        fields={"v": "v"},
        timestamp_path="up || at || sent",
        timestamp_format="unix",
        timestamp="trusted",
        timestamp_min=TimeBound(1_577_836_800_000),
    )
    assert [sample.time_ms - NOW_MS for sample in decoded.samples] == [-10_000, -20_000, -10_000]
    assert decoded.misses == ()


def test_seconds_where_milliseconds_are_said_are_a_miss_and_not_a_day_in_1970() -> None:
    decoded = timed(b'{"v":1,"t":1777593600}', timestamp="trusted")
    assert (decoded.event_time_ms, decoded.misses) == (NOW_MS, ("@timestamp",))


# Large numbers


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"9007199254740993", 9_007_199_254_740_993),
        (b"18446744073709551615", 2**64 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"1e99", 1e99),
        (b"18446744073709551616", 2.0**64),
        (b"1e101", None),
        (b"1e400", None),
        (b"-1e400", None),
    ],
)
def test_whole_numbers_stay_exact_and_what_overflows_is_a_miss(text: bytes, kept: object) -> None:
    decoded = decode(b'{"c":' + text + b"}", fields={"c": "c"})
    found = only(decoded).get("c") if decoded.problem is None else None
    assert (found, type(found)) == (kept, type(kept))
