"""No payload gives a reading that the rules of the docs, written down naively here, do not give."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import random
import re
import zlib
from collections.abc import Callable, Iterator

import cbor2
import msgpack
import pytest
import zstandard

from gateway.decode.decoders.delimited import CsvSpec
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
    """The payload as UTF-8, from every character set that may apply."""
    yield payload
    for charset in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"):
        try:
            yield payload.decode(charset).removeprefix("\ufeff").encode()
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
        str(name): value.hex() if isinstance(value, bytes) else value
        for name, value in found.items()
        if type(name) in (str, int)
    }
    return [{name: value for name, value in named.items() if counts(value)}]


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
    return of_document(cbor2.loads(payload))


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


NAIVE: dict[str, tuple[Naive, tuple[bytes, ...]]] = {
    "json": (naive_json, (b'{"a": 1.5, "b": "x", "c": [1], "d": NaN}', b"[1, 2]", b"21.5", b'"a"', b"{}")),
    "number": (naive_number, (b"21.5", b"-3,75", b"1.234,5", b"1e3", b"nan", b"on", b"12 W", b"0x1F")),
    "text": (naive_text, ("21 °C".encode(), b"on", b"unavailable")),
    "ndjson": (naive_ndjson, (b'{"a": 1}\n{"a": 2}\n', b'{"a": 1}\n{"a":\n3', b"\n\n7\n")),
    "csv": (naive_csv, (b"1,2.5,x\n,+3,\n", b'"q, r",1e2,-.5', b"1,2,3,4\n", b"n/a,,0x1F")),
    "msgpack": (naive_msgpack, (msgpack.packb({"a": 1, "b": 2.5, "c": "x"}), msgpack.packb([1, {"a": 2}]))),
    "cbor": (naive_cbor, (cbor2.dumps({"a": 1, "b": 2.5, "c": "x"}), cbor2.dumps("on"))),
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
    *(csv.Error, cbor2.CBORError, msgpack.UnpackException),
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
