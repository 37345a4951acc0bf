"""What awkward devices send gives the right results, from the payload through the windows."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cbor2
import msgpack
import pytest

from gateway.config import parse_config
from gateway.core.events import Emission
from gateway.decode.decoders.sparkplug import Payload
from gateway.decode.routes import RouteTable
from gateway.pipeline.plugins_loader import load_plugins
from gateway.pipeline.replay import Recorded, Replay
from gateway.windows.engine import WindowEngine

NOON_MS = 1_777_636_800_000  # 2026-05-01T12:00:00Z
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
DAY_MS = 24 * HOUR_MS
EACH = {"type": "count", "count": 1}
HOURLY = {"type": "tumbling", "size": "1h"}
Message = tuple[str, bytes | str | Mapping[str, Any] | Sequence[Any], int]
"""Topic, payload, and how many ms after noon it came."""


class Outcome(NamedTuple):
    emitted: list[Emission]
    replay: Replay

    def values(self) -> list[tuple[str, float]]:
        """The key and value of each result of a window of one reading."""
        return [(one.key, one.result["last"]) for one in self.emitted if one.kind == "on_time"]  # type: ignore[index]

    def only(self) -> Any:
        """The result of the only window."""
        (one,) = self.emitted
        return one.result


def outcome(route: Mapping[str, Any], window: Mapping[str, Any], *messages: Message) -> Outcome:
    """What a replay of the messages gives, to the end."""
    name = route.get("name", route.get("preset"))
    entry = {"name": "w", "route": name, "key": "{device}", "window": EACH} | dict(window)
    config = parse_config(json.dumps({"gateway": {"id": "g"}, "routes": [route], "windows": [entry]}))
    loaded = load_plugins(config.window_specs(), config.plugins.directory)
    engine = WindowEngine(config.window_specs(), loaded.plugins, loaded.fingerprints)
    replay = Replay(RouteTable(config.route_specs()), engine)
    emitted: list[Emission] = []
    for topic, payload, after_ms in messages:
        content = payload if isinstance(payload, (bytes, str)) else json.dumps(payload)
        data = content.encode() if isinstance(content, str) else content
        emitted += replay.feed(Recorded(topic, data, NOON_MS + after_ms))
    return Outcome(emitted + replay.finish(), replay)


def route(**parts: Any) -> dict[str, Any]:
    return {"name": "r", "topic": "site/{device}", **parts}


def minutes(topic: str, *values: object) -> list[Message]:
    return [(topic, str(value), number * MINUTE_MS) for number, value in enumerate(values)]


# Meters


def test_a_total_that_dips_by_a_rounding_step_was_not_reset() -> None:
    window = {"plugin": "counter", "options": {"tolerance": "10%"}, "window": HOURLY}
    told = outcome(
        route(decoder="number"), window, *minutes("site/pv", 80.2, 80.3, 80.2, 80.2, 80.4, 80.3, 80.5)
    ).only()
    assert told["increase"] == pytest.approx(0.3)
    assert told["resets"] == 0


@pytest.mark.parametrize("plugin", ["counter", "delta"])
def test_a_counter_beyond_two_to_the_53_rises_by_one(plugin: str) -> None:
    first = 2**60 + 1
    window = {"field": "bytes", "plugin": plugin, "window": HOURLY}
    messages = [("site/port", {"bytes": first + number}, number * 1000) for number in range(3)]
    told = outcome(route(), window, *messages).only()
    assert told["increase" if plugin == "counter" else "delta"] == 2


def test_a_load_that_reports_on_change_has_the_energy_of_its_steps() -> None:
    window = {"plugin": "time_weighted", "window": HOURLY}
    steps = [(0, 0), (20, 1500), (25, 1500), (32, 0), (59, 0)]
    messages = [("site/oven", str(watts), minute * MINUTE_MS) for minute, watts in steps]
    told = outcome(route(decoder="number"), window, *messages).only()
    assert told["integral_per_h"] == pytest.approx(1500 * 12 / 60)


def test_a_register_is_scaled() -> None:
    fields = {"t": {"from": "regs[1]", "scale": 0.1, "offset": -40, "unit": "°C"}}
    assert outcome(route(fields=fields), {"field": "t"}, ("site/plc", {"regs": [7, 613]}, 0)).values() == [
        ("plc", 21.3)
    ]


# Payloads


PACKED: tuple[Callable[[bytes], bytes], ...] = (
    zlib.compress,
    gzip.compress,
    lambda data: zlib.compress(data)[2:-4],
    lambda data: b"\xef\xbb\xbf" + data,
    lambda data: data.decode().encode("utf-16-le"),
    lambda data: data + b"\0",
)


@pytest.mark.parametrize("pack", PACKED)
def test_packed_and_marked_payloads_are_read(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(b'{"room": {"t": 19.75}}')
    assert outcome(route(fields={"t": "room.t"}), {"field": "t"}, ("site/a", packed, 0)).values() == [
        ("a", 19.75)
    ]


@pytest.mark.parametrize(
    ("decoder", "payloads", "wanted"),
    [
        ("number", ["18,25", "18.5", "1.018,5"], [18.25, 18.5, 1018.5]),
        ("text", ["20.5 ℃", "-81 dbM", "47 %", "1,5kW", "0x2A", "error 5"], [20.5, -81, 47, 1.5, 42]),
    ],
)
def test_numbers_with_commas_and_units_are_numbers(
    decoder: str, payloads: list[str], wanted: list[float]
) -> None:
    fields = {"value": {"from": "@", "parse": "number"}} if decoder == "text" else {}
    told = outcome(route(decoder=decoder, fields=fields), {}, *minutes("site/a", *payloads))
    assert told.values() == [("a", value) for value in wanted]


def test_cells_of_a_line_have_names_and_numbers_with_zeros_in_front() -> None:
    parts = {
        "decoder": "csv",
        "csv": {"columns": ["kind", "code", "c1", "v1", "s1", "c2", "v2", "s2"], "separator": ";"},
    }
    window = {"fields": ["v1", "v2"]}
    told = outcome(route(**parts), window, ("site/a", "B7;0-0;C1;0018.4;N;C2;0071.9;N", 0)).only()
    assert (told["v1"]["last"], told["v2"]["last"]) == (18.4, 71.9)


def test_documents_one_a_line_are_readings() -> None:
    body = '{"t": 18.5, "h": 40}\n{"t": 36.5, "h": 80}\n'
    told = outcome(route(decoder="ndjson"), {"field": "t"}, ("site/a", body, 0))
    assert told.values() == [("a", 18.5), ("a", 36.5)]


@pytest.mark.parametrize(
    ("decoder", "payload"),
    [
        ("msgpack", msgpack.packb({"t": 18.5})),
        ("cbor", cbor2.dumps({"t": 18.5})),
        ("influx", b"mem,host=b t=18.5,n=4i 1777636800000000000"),
    ],
)
def test_other_encodings_give_the_same_reading(decoder: str, payload: bytes) -> None:
    assert outcome(route(decoder=decoder), {"field": "t"}, ("site/a", payload, 0)).values() == [("a", 18.5)]


def test_senml_in_cbor_has_names_values_and_times() -> None:
    pack = [{-2: "/3304/1/", -3: NOON_MS // 1000, 0: "5700", 2: 41.5}, {0: "5700", 2: 41.25, 6: -30}]
    told = outcome(
        route(decoder="senml", timestamp="trusted"),
        {"key": "{device}{name}"},
        ("site/e", cbor2.dumps(pack), 0),
    )
    assert [(one.key, one.start_ms, one.result["last"]) for one in told.emitted] == [  # type: ignore[index]
        ("e/3304/1/5700", NOON_MS, 41.5),
        ("e/3304/1/5700", NOON_MS - 30_000, 41.25),
    ]


def test_lists_that_belong_together_are_readings_at_their_times() -> None:
    parts = {
        "readings": "series[].zip_objects('at', 'watts', at, power)[]",
        "fields": {"watts": "watts"},
        "timestamp_path": "at",
        "timestamp_format": "unix",
        "timestamp": "trusted",
    }
    body = {"series": [{"at": [NOON_MS // 1000 - 60, NOON_MS // 1000], "power": [5.5, 6.5]}]}
    told = outcome(route(**parts), {"field": "watts"}, ("site/a", body, 0))
    assert [(one.start_ms, one.result["last"]) for one in told.emitted] == [  # type: ignore[index]
        (NOON_MS - MINUTE_MS, 5.5),
        (NOON_MS, 6.5),
    ]


def test_names_with_wildcards_are_keys_of_their_own() -> None:
    parts = {"readings": "sections(@, 'name')", "fields": {"name": "name", "p": "p"}}
    body = {"Inv #2": {"p": 11}, "Inv +2": {"p": 12}, "Inv /2": {"p": 13}}
    told = outcome(route(**parts), {"field": "p", "key": "{name}"}, ("site/a", body, 0))
    assert told.values() == [("Inv #2", 11), ("Inv +2", 12), ("Inv /2", 13)]


# Words


def test_a_word_that_is_not_in_the_map_and_absence_are_misses() -> None:
    fields = {"flow": "flow", "flame": {"from": "flame", "map": {"on": 1, "off": 0}}}
    messages: list[Message] = [
        ("site/a", {"flow": "41", "flame": "off"}, 0),
        ("site/a", {"flow": "42"}, 1),
        ("site/a", {"flow": "43", "flame": "unavailable"}, 2),
        ("site/a", {"flow": "44", "flame": "on"}, 3),
    ]
    told = outcome(route(fields=fields), {"fields": ["flow", "flame"]}, *messages)
    found = [one.result for one in told.emitted]
    assert [each["flow"]["last"] for each in found] == [41, 42, 43, 44]  # type: ignore[index]
    flames = [each["flame"] for each in found]  # type: ignore[index]
    assert [flame and flame["last"] for flame in flames if flame and flame["count"]] == [0, 1]


def test_states_of_a_binary_sensor_other_than_on_and_off_are_misses() -> None:
    words = ["OFF", "ON", "unavailable", "unknown", "NONE", ""]
    messages: list[Message] = [("porch/binary_sensor/gate/state", word, n) for n, word in enumerate(words)]
    window = {"route": "esphome_binary", "key": "{device}/{sensor}"}
    told = outcome({"preset": "esphome"}, window, *messages)
    assert told.values() == [("porch/gate", 0), ("porch/gate", 1)]


# Presets


def test_sensors_without_a_name_are_all_there() -> None:
    body = '{"Time": "2026-05-01T12:00:00", "": {"Id": "7A", "Temperature": 4.5},'
    body += ' "": {"Id": "7B", "Temperature": 61}}'
    told = outcome(
        {"preset": "tasmota"}, {"field": "Temperature", "key": "{device}/{Id}"}, ("tele/t/SENSOR", body, 0)
    )
    assert told.values() == [("t/7A", 4.5), ("t/7B", 61)]


def test_devices_behind_a_zigbee_bridge_are_sensors() -> None:
    body = {"ZbReceived": {"0x91F3": {"Device": "0x91F3", "Name": "loft", "Humidity": 63.5, "Endpoint": 1}}}
    told = outcome(
        {"preset": "tasmota"},
        {"field": "Humidity", "key": "{device}/{sensor}"},
        ("tele/bridge/SENSOR", body, 0),
    )
    assert told.values() == [("bridge/loft", 63.5)]


def test_values_that_are_json_inside_of_json_are_fields() -> None:
    body = {"devEUI": "Ag==", "fCnt": 4, "objectJSON": '{"soil":{"moisture":31.5},"battery":3.5}'}
    told = outcome(
        {"preset": "chirpstack"}, {"field": "soil.moisture"}, ("application/9/device/02/event/up", body, 0)
    )
    assert told.values() == [("02", 31.5)]


def test_an_uptime_is_not_the_time_of_an_uplink() -> None:
    def uplink(**payload: object) -> dict[str, Any]:
        return {"uplink_message": {"decoded_payload": payload, "received_at": "2026-05-01T09:00:00.5Z"}}

    told = outcome(
        {"preset": "ttn"},
        {"field": "level"},
        ("v3/app@ttn/devices/a/up", uplink(level=5, timestamp=731), 0),
        ("v3/app@ttn/devices/b/up", uplink(level=6), 1),
        ("v3/app@ttn/devices/c/up", uplink(level=7, timestamp="boot"), 2),
    )
    assert [one.start_ms for one in told.emitted] == [NOON_MS - 3 * HOUR_MS + 500] * 3


def spark(seq: int, *metrics: Mapping[str, Any]) -> bytes:
    message = Payload(timestamp=NOON_MS, seq=seq)
    for metric in metrics:
        message.metrics.add(**metric)
    return bytes(message.SerializeToString())


def test_a_metric_with_an_alias_and_an_empty_name_has_the_name_of_its_birth() -> None:
    told = outcome(
        {"preset": "sparkplug"},
        {"key": "{node}/{device}/{name}"},
        ("spBv1.0/G/NBIRTH/n", spark(0, {"name": "bdSeq", "long_value": 1}), 0),
        ("spBv1.0/G/DBIRTH/n/d", spark(1, {"name": "level", "alias": 4, "datatype": 3, "int_value": 7}), 1),
        ("spBv1.0/G/DDATA/n/d", spark(2, {"name": "", "alias": 4, "int_value": 2**32 - 8}), 2),
    )
    assert told.values() == [("n/d/level", 7), ("n/d/level", -8)]


# Times


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("Fri, 01 May 2026 12:00:05 GMT", "%a, %d %b %Y %H:%M:%S %Z"),
        ("Friday, 01-May-26 12:00:05 UTC", "%A, %d-%b-%y %H:%M:%S %Z"),
        ("2026-05-01 12:00:05 UTC", "iso"),
        ("2026-05-01 12:00:05 +0000 UTC", "iso"),
        ("2026-05-01 14:00:05", "iso"),
        ("/Date(1777636805000)/", "iso"),
        ("260501140005S", "dsmr"),
        (NOON_MS // 1000 + 2 * 3600 + 5, "unix_local"),
    ],
)
def test_a_time_means_what_it_says_whatever_the_zone_of_the_route(text: object, layout: str) -> None:
    parts = {
        "timestamp_path": "at",
        "timestamp_format": layout,
        "timestamp_timezone": "Europe/Berlin",
        "timestamp": "trusted",
    }
    told = outcome(route(**parts), {"field": "v"}, ("site/a", {"at": text, "v": 1}, HOUR_MS))
    assert [one.start_ms for one in told.emitted] == [NOON_MS + 5_000]


def test_the_two_hours_that_clocks_show_twice_are_told_apart_by_the_season() -> None:
    parts = {
        "timestamp_path": "t",
        "timestamp_format": "dsmr",
        "timestamp_timezone": "Europe/Amsterdam",
        "timestamp": "trusted",
    }
    telegrams = ["261025021500S", "261025021500W", "260701121500S"]
    messages = [("site/m", {"t": text, "w": n}, 365 * DAY_MS + n) for n, text in enumerate(telegrams)]
    told = outcome(route(**parts), {"field": "w"}, *messages)
    first = 1_792_887_300_000  # 2026-10-25T00:15:00Z
    assert [one.start_ms for one in told.emitted] == [first, first + HOUR_MS, 1_782_900_900_000]


def test_a_day_is_that_of_the_place_over_a_change_of_clocks() -> None:
    midnight = 1_792_792_800_000  # 2026-10-24 00:00 in Berlin, which is 22:00Z
    hours = [1, 23, 24.5, 48.5, 49.5]  # the 25th has 25 hours
    messages = [
        ("site/a", str(n), round(midnight + hour * HOUR_MS) - NOON_MS) for n, hour in enumerate(hours)
    ]
    window = {"window": {"type": "calendar", "every": "day", "timezone": "Europe/Berlin"}}
    told = outcome(route(decoder="number"), window, *messages)
    assert [(one.start_ms - midnight, one.count) for one in told.emitted if one.start_ms is not None] == [
        (0, 2),
        (24 * HOUR_MS, 2),
        (49 * HOUR_MS, 1),
    ]


@pytest.mark.parametrize("trusted", [False, True])
def test_a_state_of_hours_ago_that_is_sent_again_is_in_no_new_window(trusted: bool) -> None:
    old = {"temperature": 7.5, "last_seen": "2026-05-01T05:00:00Z"}
    new = {"temperature": 20.5, "last_seen": "2026-05-01T12:00:00Z"}
    messages: list[Message] = [
        ("zigbee2mqtt/cellar", old, -7 * HOUR_MS),
        ("zigbee2mqtt/hall", new, 0),
        ("zigbee2mqtt/cellar", old, 5_000),
    ]
    entry = {"preset": "zigbee2mqtt"} | ({"timestamp": "trusted"} if trusted else {})
    told = outcome(entry, {"field": "temperature", "window": HOURLY}, *messages)
    assert [(one.key, one.start_ms) for one in told.emitted if one.kind == "on_time"] == [
        ("cellar", NOON_MS - 7 * HOUR_MS),
        ("hall", NOON_MS),
    ]
