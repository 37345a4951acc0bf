"""What reads bytes from outside, with the errors that each may raise, and sound inputs to begin with.

`test_fuzz.py` runs all of them with Hypothesis, `fuzz_atheris.py` one of them under Atheris.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import orjson

from gateway.config.load import parse_config
from gateway.core.errors import ConfigError, ControlError, DecodeError, TopicError, UnitError
from gateway.core.events import WireEvent
from gateway.core.expressions import compile_expression
from gateway.core.timestamps import check_format, parse_time_bound, timestamp_reader
from gateway.core.topics import TopicTemplate, check_filter, check_topic
from gateway.core.units import parse_duration_ms, parse_rate_bytes_per_s, parse_size_bytes
from gateway.decode.routes import Route, RouteSpec
from gateway.decode.scalars import is_scalar
from gateway.host import control
from gateway.receiver.event_lines import event_line, identity_of_line
from gateway.wire.audit_record import read_audit
from gateway.wire.encodings import decode_frame
from gateway.wire.event_format import (
    event_envelope,
    event_from_envelope,
    event_from_message,
    event_properties,
)
from gateway.wire.frame import EventColumns, decode_batch, encode_batch
from gateway.wire.short_identity import short_identities

EVENT = WireEvent(bytes(range(16)), "s/a", 7, 1_700_000_000_000, 1_700_000_000_001, None, 2, 0, 0, b'{"v":1}')
COLUMNS = EventColumns(bytes(16), ["s/a"], [7], [1], [2], [3], [2], [0], [1], [b"1"])
AUDIT = {
    "version": 1,
    "gateway": "g1",
    "session": "s",
    "time_ms": 1,
    "buffer": {"pending": 1},
    "streams": [{"stream": "s/a", "first": 1, "last": 9, "count": 9, "lost": []}],
}
CONFIG = b"""
gateway: {id: plant-7, data_dir: ./data}
local: {url: "mqtt://broker:1883"}
routes:
  - {name: r, topic: "s/{device}", fields: {t: a.b}, timestamp_path: t, timestamp_format: iso}
windows:
  - {name: w, route: r, field: t, key: "{device}", window: {type: hopping, size: 5m, slide: 1m}}
buffer: {max_size: 2GiB}
cloud: {url: "mqtts://cloud:8883", bandwidth: 1MiB/s}
"""


class Target(NamedTuple):
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def run(self, data: bytes) -> None:
        """Read `data`; an error that is not among the refusals gets out."""
        try:
            self.read(data)
        except self.refusals:
            return


def _route(decoder: str, **more: str) -> Callable[[bytes], object]:
    """Decoding never raises, and what it gives can be stored as JSON."""
    route = Route(RouteSpec("r", "s/{device}", decoder=decoder, **more))  # type: ignore[arg-type]

    def read(data: bytes) -> None:
        decoded = route.decode("s/a", {"device": "a"}, data, 1_700_000_000_000)
        orjson.dumps([sample.fields for sample in decoded.samples])
        for sample in decoded.samples:
            assert all(map(is_scalar, sample.fields.values()))
            assert abs(sample.time_ms) < 1 << 62

    return read


def _text(*readers: Callable[[str], object]) -> Callable[[bytes], object]:
    def read(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        for reader in readers:
            reader(text)

    return read


def _each(
    *targets: Callable[[str], object], refusals: tuple[type[Exception], ...]
) -> Callable[[bytes], object]:
    """All of them get to see the text, also after one has refused it."""

    def one(reader: Callable[[str], object]) -> Callable[[str], object]:
        def read(text: str) -> None:
            try:
                reader(text)
            except refusals:
                return

        return read

    return _text(*map(one, targets))


def _timestamp(text: str) -> None:
    for layout in ("iso", "unix", "unix_ms", "unix_us", "unix_ns", "%d.%m.%Y %H:%M:%S"):
        found = timestamp_reader(layout, "Europe/Berlin")(text)
        assert found is None or abs(found) < 1 << 62
    try:
        check_format(text)
    except ConfigError:
        return
    timestamp_reader(text)("2024-05-01 10:00:00")


def _properties(data: bytes) -> None:
    lines = data.decode("utf-8", "replace").split("\n")
    pairs = [(name, value) for name, _, value in (line.partition("=") for line in lines)]
    event_from_message("s/a", pairs, b"1")


def _expression(text: str) -> None:
    find = compile_expression(text, ("device",))
    find({"a": {"b": [1, 2, {"c": "x"}]}, "t": 1}, {"device": "d"})


def _control(data: bytes) -> None:
    control._request(io.BytesIO(data))


_TIMES = b"2024-05-01T10:00:00Z", b"1700000000.5", b"01.05.2024 10:00:00", b"%Y-%m-%dT%H:%M:%S%z"
TARGETS = {
    "json": Target(
        _route("json", timestamp_path="t"), (), (b'{"t":"2024-05-01T10:00:00Z","v":1.5,"x":NaN}',)
    ),
    "number": Target(_route("number"), (), (b"21.5", b"-1e9")),
    "text": Target(_route("text"), (), (b"on",)),
    "cbor": Target(
        _route("cbor"), (), (b"\xa2atax\xc2Iavf\xf9<\x00", b"\xa1av\xfb@5\x80\x00\x00\x00\x00\x00")
    ),
    "senml": Target(_route("senml"), (), (b'[{"bn":"d/","bt":1.7e9,"n":"t","v":21,"u":"Cel"}]',)),
    "sparkplug_b": Target(
        _route("sparkplug_b"), (), (b"\x08\x01\x12\x0b\n\x01a \x09i\x00\x00\x00\x00\x00\x00\xf0?",)
    ),
    "frame": Target(decode_batch, (DecodeError,), (encode_batch("g1", bytes(16), [EVENT, EVENT]),)),
    "lines frame": Target(
        decode_frame,
        (DecodeError,),
        (
            b'{"frame":1,"gateway":"g","batch_id":"00000000-0000-0000-0000-000000000000","count":1}\n'
            + event_envelope(EVENT)
            + b"\n",
        ),
    ),
    "envelope": Target(event_from_envelope, (DecodeError,), (event_envelope(EVENT),)),
    "event line": Target(identity_of_line, (DecodeError,), (event_line("g1", EVENT),)),
    "properties": Target(
        _properties, (DecodeError,), ("\n".join(f"{n}={v}" for n, v in event_properties(EVENT)).encode(),)
    ),
    "short identity": Target(
        lambda data: event_from_message("s/a", (), b"1", data),
        (DecodeError,),
        tuple(short_identities(COLUMNS, "00112233aabbccdd")),
    ),
    "audit": Target(read_audit, (DecodeError,), (orjson.dumps(AUDIT),)),
    "configuration": Target(
        lambda data: parse_config(data.decode("utf-8", "replace")), (ConfigError,), (CONFIG,)
    ),
    "topics": Target(
        _each(check_topic, check_filter, TopicTemplate, refusals=(TopicError, ConfigError)),
        (),
        (b"tele/{device}/SENSOR", b"a/+/#", b"x/{rest...}"),
    ),
    "expression": Target(_text(_expression), (ConfigError,), (b"a.b[0].c", b"{device}", b"max(a.b[:2])")),
    "timestamps": Target(_text(_timestamp), (ConfigError,), _TIMES),
    "units": Target(
        _each(
            *(parse_duration_ms, parse_size_bytes, parse_rate_bytes_per_s, parse_time_bound),
            refusals=(UnitError, ConfigError),
        ),
        (),
        (b"1h30m", b"64MiB", b"1MiB/s", b"-1d", b"2024-01-01"),
    ),
    "control line": Target(_control, (ControlError,), (b'{"do":"retry","ids":[1,2]}\n',)),
}
