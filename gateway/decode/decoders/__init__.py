"""Payload bytes to JSON-like documents, one function per format.

A document is what `json.loads` could have given: dicts with text keys, lists, text, numbers, booleans and
None. Parsers raise DecodeError, with a fixed word as its reason, and nothing else, whatever the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

from gateway.decode.decoders.plain import parse_json, parse_number, parse_raw, parse_text
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
    """Where an item says, by true, that its device saved it up: then its time is believed."""
    remembers: bool = False
    """Whether a message needs those before it to be understood; see `decode.sparkplug_births`."""


def _cbor() -> Decoder:
    from gateway.decode.decoders.cbor import parse_cbor  # noqa: PLC0415 - needs an extra

    return Decoder(parse_cbor)


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
    )


_DECODERS: dict[str, Callable[[], Decoder]] = {
    "json": lambda: Decoder(parse_json),
    "number": lambda: Decoder(parse_number, single=True),
    "text": lambda: Decoder(parse_text, single=True),
    "raw": lambda: Decoder(parse_raw, readings="@"),
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


def missing_extra(name: str) -> str | None:
    """The extra of this package that the decoder `name` needs and that is not installed."""
    module, extra = _EXTRAS.get(name, ("", ""))
    try:
        return extra if module and find_spec(module) is None else None
    except ModuleNotFoundError:
        return extra
