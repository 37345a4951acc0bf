"""Payload bytes to JSON-like documents, one function per format.

A document is what `json.loads` could have given: dicts with text keys, lists, text, numbers, booleans and
None. Parsers raise DecodeError, with a fixed word as its reason, and nothing else, whatever the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

from gateway.decode.decoders.delimited import CsvParser, CsvSpec
from gateway.decode.decoders.lines import parse_line_protocol, parse_ndjson
from gateway.decode.decoders.plain import (
    parse_any_text,
    parse_comma_number,
    parse_json,
    parse_number,
    parse_raw,
    parse_text,
)
from gateway.decode.decoders.senml import parse_senml

Document = object
Parse = Callable[[bytes, int], Document]
"""(payload, arrival time in ms) → document."""

_EXTRAS = {"cbor": ("cbor2", "cbor"), "sparkplug_b": ("google.protobuf", "sparkplug")}


@dataclass(frozen=True, slots=True)
class Decoder:
    """A parser, and how its documents are read where the route does not say.

    `fields`, `readings` and the timestamp are those of `decode.routes.RouteSpec`. `single` says that a
    document is always one value, which is the field `value`.
    """

    parse: Parse
    fields: Mapping[str, str] = field(default_factory=dict)
    readings: str | None = None
    timestamp_path: str | None = None
    timestamp_format: str = "iso"
    single: bool = False
    trusted: str | None = None
    """Path of a flag in an item: when true, the device saved the item up, and its time is believed."""
    remembers: bool = False
    """True if a message can only be understood with earlier ones; see `decode.sparkplug_births`."""
    is_text: bool = True
    """True if a payload is text, whose character set may be another than UTF-8."""
    forgiving: Parse | None = None
    """Reader for payloads that `parse` and all other ways of reading refused."""


def _cbor() -> Decoder:
    from gateway.decode.decoders.cbor import parse_cbor  # noqa: PLC0415 - needs an extra

    return Decoder(parse_cbor, is_text=False)


def _msgpack() -> Decoder:
    from gateway.decode.decoders.messagepack import parse_msgpack  # noqa: PLC0415 - only where it is used

    return Decoder(parse_msgpack, is_text=False)


def _sparkplug_b() -> Decoder:
    from gateway.decode.decoders.sparkplug import parse_sparkplug_b  # noqa: PLC0415 - needs an extra

    fields = {"name": "name", "value": "value"}
    return Decoder(
        parse_sparkplug_b,
        fields,
        "metrics",
        "timestamp",
        "unix_ms",
        trusted="is_historical",
        remembers=True,
        is_text=False,
    )


_DECODERS: dict[str, Callable[[], Decoder]] = {
    "json": lambda: Decoder(parse_json),
    "ndjson": lambda: Decoder(parse_ndjson, readings="@"),
    "csv": lambda: csv_decoder(CsvSpec()),
    "msgpack": _msgpack,
    "influx": lambda: Decoder(
        parse_line_protocol, readings="@", timestamp_path="time", timestamp_format="unix_ns"
    ),
    "number": lambda: Decoder(parse_number, single=True, forgiving=parse_comma_number),
    "text": lambda: Decoder(parse_text, single=True, forgiving=parse_any_text),
    "raw": lambda: Decoder(parse_raw, readings="@", is_text=False),
    "cbor": _cbor,
    "sparkplug_b": _sparkplug_b,
    "senml": lambda: Decoder(
        parse_senml, {"name": "name", "value": "value", "unit": "unit"}, "@", "time", "unix"
    ),
}

DECODER_NAMES = tuple(_DECODERS)


def decoder(name: str) -> Decoder:
    """The decoder called `name`. Raises KeyError or ImportError: the configuration checks both before."""
    return _DECODERS[name]()


def csv_decoder(layout: CsvSpec) -> Decoder:
    """The decoder `csv` for one layout of lines."""
    return Decoder(CsvParser(layout), readings="@")


def missing_extra(name: str) -> str | None:
    """The extra of this package that the decoder `name` needs and that is not installed."""
    module, extra = _EXTRAS.get(name, ("", ""))
    try:
        return extra if module and find_spec(module) is None else None
    except ModuleNotFoundError:
        return extra
