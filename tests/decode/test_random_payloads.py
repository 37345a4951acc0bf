"""No payload gives a reading that the rules of the docs, written down naively here, do not give."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import cbor2
import msgpack
import pytest
import zstandard

from gateway.decode.decoders.delimited import CsvSpec
from gateway.decode.decoders.sparkplug import Payload
from gateway.decode.routes import Route, RouteSpec

NOW_MS = 1_777_593_600_000
COLUMNS = ("a", "b", "c")
Readings = list[dict[str, object]]
Naive = Callable[[bytes], Readings]


def unpacked(payload: bytes) -> Iterator[bytes]:
    """The payload, and what it is unpacked, in every way that may apply."""
    yield payload
    ways: tuple[Callable[[bytes], bytes], ...] = (
        gzip.decompress,
        zlib.decompress,
        lambda data: zlib.decompress(data, -15),
        lambda data: zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 20),
    )
    for way in ways:
        try:
            yield way(payload)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError):
            continue


def texts(payload: bytes) -> Iterator[bytes]:
    """The payload as UTF-8, from every character set that may apply; NULs may end it."""
    yield payload
    yield from (ended for ended in {payload.rstrip(b"\0")} - {payload})
    for charset in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"):
        try:
            text = payload.decode(charset).removeprefix("\ufeff")
            yield text.encode()
            yield text.rstrip("\0").encode()
        except (UnicodeError, ValueError):
            continue


def counts(value: object) -> bool:
    if isinstance(value, float):
        return abs(value) < 1e100
    return isinstance(value, (str, bool)) or (isinstance(value, int) and -(2**63) <= value < 2**64)


def of_document(document: object) -> Readings:
    if isinstance(document, list):
        return []
    found = document if isinstance(document, dict) else {"value": document}
    named = {
        named_as(name): as_hex(value) for name, value in found.items() if type(name) in (str, int, bytes)
    }
    return [{name: value for name, value in named.items() if counts(value)}]


def named_as(key: str | int | bytes) -> str:
    if isinstance(key, bytes):
        try:
            return key.decode()
        except UnicodeDecodeError:
            return key.hex()
    return str(key)


def as_hex(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def naive_json(payload: bytes) -> Readings:
    text = re.sub(r"(?i)(?<![\w\"])[-+]?(nan|infinity|inf)(?!\w)", "null", payload.decode())
    return of_document(json.loads(text))


def naive_number(payload: bytes) -> Readings:
    text = payload.decode().strip()
    if "_" in text or not re.fullmatch(r"(?ia)[+-]?[\d.,]+(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", text):
        return []
    if "," in text:
        whole, _, decimal = text.rpartition(",") if text.rfind(",") > text.rfind(".") else (text, "", "")
        text = (
            f"{whole.replace('.', '')}.{decimal}" if decimal or text.endswith(",") else text.replace(",", "")
        )
    number = float(text)
    return [{"value": number} if math.isfinite(number) and counts(number) else {}]


def naive_text(payload: bytes) -> Readings:
    return [{"value": payload.decode()}]


def naive_ndjson(payload: bytes) -> Readings:
    found: Readings = []
    for line in payload.splitlines():
        try:
            found += naive_json(line) if line.strip() else []
        except ValueError:
            continue
    return found


def naive_csv(payload: bytes) -> Readings:
    found: Readings = []
    for row in csv.reader(io.StringIO(payload.decode(), newline=""), skipinitialspace=True, strict=True):
        cells = [cell.strip() for cell in row]
        if any(cells) and not any(cells[3:]):
            named = dict(zip(COLUMNS, cells, strict=False))
            found.append({name: naive_cell(cell) for name, cell in named.items() if counts(naive_cell(cell))})
    return found


def naive_cell(cell: str) -> object:
    if re.fullmatch(r"[+-]?[0-9]+", cell):
        return int(cell)
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", cell):
        return float(cell)
    return cell or None


def naive_msgpack(payload: bytes) -> Readings:
    item = msgpack.unpackb(payload, strict_map_key=False, ext_hook=lambda _code, _data: None)
    return of_document(item) if len(payload) > 1 or not isinstance(item, int) else []


def naive_cbor(payload: bytes) -> Readings:
    return of_document(only_item(payload))


def only_item(payload: bytes) -> object:
    """The CBOR item, with nothing behind it: older versions of `cbor2.loads` read past that."""
    stream = io.BytesIO(payload)
    item = cbor2.load(stream)
    if stream.tell() != len(payload):
        raise ValueError("bytes follow the item")
    return item


def naive_influx(payload: bytes) -> Readings:
    found: Readings = []
    for line in payload.splitlines():
        try:
            found.append(naive_point(line.strip(b" \t\r").decode()))
        except (ValueError, LookupError):
            continue
    return found


def naive_point(line: str) -> dict[str, object]:
    if line.startswith("#"):
        raise ValueError("a comment")
    name, *tags = line.split(" ", maxsplit=1)[0].split(",")
    _, fields, *time = re.split(" +", line)
    point: dict[str, object] = {"measurement": name, **dict(tag.split("=", 1) for tag in tags)}
    if time:
        point["time"] = int(time[-1])
    for pair in fields.split(","):
        key, text = pair.split("=", 1)
        if not name or not key:
            raise ValueError("no name")
        point[key] = naive_field(text)
    return {key: value for key, value in point.items() if counts(value)}


def naive_field(text: str) -> object:
    words = {"t": True, "true": True, "f": False, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    if text.startswith('"'):
        if len(text) < 2 or not text.endswith('"') or '"' in text[1:-1]:
            raise ValueError("no text")
        return text[1:-1]
    if not re.fullmatch(r"(?a)-?\d{1,20}[iu]|[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        raise ValueError("no number")
    return int(text[:-1]) if text[-1:] in ("i", "u") else float(text)


LABELS = {-2: "bn", -4: "bu", -5: "bv", -1: "bver", 0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 8: "vd"}


def naive_senml(payload: bytes) -> Readings:
    labels: dict[object, str] = {label: label for label in LABELS.values()}
    try:
        pack = json.loads(payload)
    except ValueError:
        pack = only_item(payload)
        labels |= LABELS | {str(number): label for number, label in LABELS.items()}
    base: dict[str, Any] = {}
    found: Readings = []
    for each in pack:
        if not isinstance(each, dict):
            raise TypeError("no record")
        named = {label: value for label, value in each.items() if type(label) in (int, str, bytes)}
        record: dict[str, Any] = {
            labels[label]: as_hex(value) for label, value in named.items() if label in labels
        }
        if record.get("bver", 10) > 10 or any(named_as(label).endswith("_") for label in named):
            raise ValueError("another SenML")
        base |= record
        value = record.get("vs", record.get("vb", record.get("vd")))
        if "v" in record:
            parts = [base.get("bv", 0), record["v"]]
            value = sum(parts) if all(type(part) in (int, float) for part in parts) else None
        name = "".join(text for text in (base.get("bn"), record.get("n")) if isinstance(text, str))
        unit = record.get("u", base.get("bu"))
        reading = {"name": name, "value": value, "unit": unit if isinstance(unit, str) else ""}
        if not record.keys().isdisjoint(("v", "vs", "vb", "vd", "s")):
            found.append({name: value for name, value in reading.items() if counts(value)})
    return found


def wire(payload: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """The fields of a protobuf message: number, wire type, content."""
    at, depth = 0, 0

    def varint() -> int:
        nonlocal at
        found = shift = 0
        while True:
            found |= (payload[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if payload[at - 1] < 0x80:
                return found & (2**64 - 1)

    while at < len(payload):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            content: int | bytes = varint()
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind) or varint()
            content, at = payload[at : at + size], at + size
        else:
            depth += {3: 1, 4: -1}[kind]
            continue
        if not depth:
            yield number, kind, content


def as_text(found: bytes) -> str:
    try:
        return found.decode()
    except UnicodeDecodeError:
        return found.decode("latin-1")


METRIC_VALUES: dict[tuple[int, int], Callable[[Any], object]] = {
    (10, 0): lambda found: found % 2**32,
    (11, 0): lambda found: found,
    (12, 5): lambda found: struct.unpack("<f", found)[0],
    (13, 1): lambda found: struct.unpack("<d", found)[0],
    (14, 0): bool,
    (15, 2): as_text,
    (16, 2): bytes.hex,
}


def naive_sparkplug(payload: bytes) -> Readings:
    return [naive_metric(content) for number, kind, content in wire(payload) if (number, kind) == (2, 2)]


def naive_metric(payload: bytes | int) -> dict[str, object]:
    assert isinstance(payload, bytes)
    reading: dict[str, object] = {}
    datatype, is_null = 0, False
    for number, kind, content in wire(payload):
        if (number, kind) == (1, 2):
            assert isinstance(content, bytes)
            reading["name"] = as_text(content)
        elif (number, kind) == (4, 0):
            datatype = int(content) % 2**32
        elif (number, kind) == (7, 0):
            is_null = bool(content)
        elif (number, kind) in METRIC_VALUES:
            reading["value"] = METRIC_VALUES[number, kind](content)
        elif (number, kind) in ((17, 2), (18, 2)):
            reading.pop("value", None)
    value, bits = reading.get("value"), {1: 8, 2: 16, 3: 32, 4: 64}.get(datatype)
    if bits and type(value) is int:
        reading["value"] = (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    if is_null:
        reading.pop("value", None)
    return {name: each for name, each in reading.items() if counts(each)}


def metrics(*found: dict[str, object]) -> bytes:
    message = Payload(timestamp=NOW_MS, seq=7)
    for each in found:
        message.metrics.add(**each)
    return bytes(message.SerializeToString())


NAIVE: dict[str, tuple[Naive, tuple[bytes, ...]]] = {
    "json": (naive_json, (b'{"a": 1.5, "b": "x", "c": [1], "d": NaN}', b"[1, 2]", b"21.5", b'"a"', b"{}")),
    "number": (naive_number, (b"21.5", b"-3,75", b"1.234,5", b"1e3", b"nan", b"on", b"12 W", b"0x1F")),
    "text": (naive_text, ("21 °C".encode(), b"on", b"unavailable")),
    "ndjson": (naive_ndjson, (b'{"a": 1}\n{"a": 2}\n', b'{"a": 1}\n{"a":\n3', b"\n\n7\n")),
    "csv": (naive_csv, (b"1,2.5,x\n,+3,\n", b'"q, r",1e2,-.5', b"1,2,3,4\n", b"n/a,,0x1F")),
    "msgpack": (naive_msgpack, (msgpack.packb({"a": 1, "b": 2.5, "c": "x"}), msgpack.packb([1, {"a": 2}]))),
    "cbor": (naive_cbor, (cbor2.dumps({"a": 1, "b": 2.5, "c": "x"}), cbor2.dumps("on"))),
    "senml": (
        naive_senml,
        (
            b'[{"bn": "a/", "bv": 20, "bu": "Cel", "n": "t", "v": 1.5}, {"n": "b", "vb": true}, {"vs": "x"}]',
            cbor2.dumps([{-2: "a/", -5: 20, 0: "t", 2: 1.5, 1: "Cel"}, {0: "on", 4: False}, {0: "s", 5: 2}]),
        ),
    ),
    "sparkplug_b": (
        naive_sparkplug,
        (
            metrics({"name": "a", "datatype": 3, "int_value": 2**32 - 5}, {"name": "b", "float_value": 1.5}),
            metrics(
                {"name": "c", "string_value": "on"}, {"name": "d", "is_null": True}, {"boolean_value": True}
            ),
            metrics({"name": "e", "alias": 3, "long_value": 2**63, "datatype": 8}, {"double_value": -2.5}),
        ),
    ),
    "influx": (naive_influx, (b"m,t=x a=1,b=2i,c=t 1777593600000000000", b"m a=1.5\n# c\nn b=3u")),
}
PACKERS: tuple[Callable[[bytes], bytes], ...] = (gzip.compress, zlib.compress, zstandard.compress)


def payloads(samples: tuple[bytes, ...], count: int) -> Iterator[bytes]:
    """Samples with bytes changed, left out and put in; some packed, some in UTF-16, some only noise."""
    chance = random.Random(17)
    for _ in range(count):
        payload = bytearray(chance.choice(samples))
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            at = chance.randrange(len(payload) + 1)
            kind = chance.randrange(4)
            if kind == 0:
                payload[at:at] = bytes([chance.choice(b'0123456789.,-+eE" {}[]:=\n\xb0\xff\x00nN')])
            elif kind == 1:
                payload[at : at + 1] = bytes([chance.randrange(256)])
            else:
                del payload[at : at + chance.choice((1, 1, 4))]
        made = bytes(payload)
        shape = chance.randrange(12)
        if shape == 0:
            made = chance.randbytes(chance.randrange(1, 24))
        elif shape == 1:
            made = chance.choice(PACKERS)(made)
        elif shape == 2:
            made = made.decode("latin-1").encode("utf-16")
        yield made


REFUSED = (
    *(ValueError, TypeError, LookupError, RecursionError, EOFError),
    *(csv.Error, cbor2.CBORError, msgpack.UnpackException, struct.error),
)


def allowed(naive: Naive, payload: bytes) -> Iterator[Readings]:
    """What the rules give for each way in which the payload may be meant."""
    for data in unpacked(payload):
        for text in texts(data):
            try:
                yield naive(text)
            except REFUSED:
                continue


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("decoder", NAIVE)
def test_every_reading_is_one_that_the_rules_give(decoder: str, count: int) -> None:
    naive, samples = NAIVE[decoder]
    layout = CsvSpec(COLUMNS) if decoder == "csv" else None
    route = Route(RouteSpec("r", "d/{x}", decoder=decoder, csv=layout, timestamp="ingest"))
    read = 0
    for payload in payloads(samples, count):
        if decoder == "influx" and b"\\" in payload:
            continue  # its escapes have tests of their own
        decoded = route.decode("d/x", {"x": "x"}, payload, NOW_MS)
        assert decoded.event_time_ms == NOW_MS
        given: Readings = [dict(sample.fields) for sample in decoded.samples]
        if not any(given):
            continue
        read += 1
        assert plain(given) in [plain(each) for each in allowed(naive, payload)], payload
    assert read > count // 10


def plain(readings: Readings) -> str:
    """Readings as text that tells 1, 1.0 and True apart where it matters: a boolean is no number."""
    rows = [
        {name: value if isinstance(value, (bool, str)) else float(str(value)) for name, value in row.items()}
        for row in readings
        if row
    ]
    return repr([sorted(row.items()) for row in rows])
