"""What lies between a payload and its decoder: compression, character sets, base64; and one bad byte."""

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import cbor2
import msgpack
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import ConfigError
from gateway.decode.decoders.plain import MAX_DECODED_BYTES
from gateway.decode.payload import PayloadSpec, check_charset
from gateway.decode.routes import Decoded, Route, RouteSpec

NOW_MS = 1_777_593_600_000
JSON = '{"c": 17.25, "name": "Küche"}'


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def bare_zstd(data: bytes) -> bytes:
    packer = zstandard.ZstdCompressor(write_content_size=False)
    return packer.compress(data)


PACKERS: dict[str, Callable[[Any], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),  # the same bytes in every worker of the tests
    "zlib": zlib.compress,
    "zlib_fast": lambda data: zlib.compress(data, 1),
    "deflate": raw_deflate,
    "zstd": zstandard.compress,
    "zstd_bare": bare_zstd,
}


def decode(data: bytes, **parts: Any) -> Decoded:
    return Route(RouteSpec("r", "d/{device}", **parts)).decode("d/x", {"device": "x"}, data, NOW_MS)


def only(decoded: Decoded) -> dict[str, object]:
    assert decoded.problem is None
    (sample,) = decoded.samples
    return dict(sample.fields)


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_a_compressed_payload_is_read_by_itself_in_every_format(pack: Callable[[bytes], bytes]) -> None:
    assert only(decode(pack(JSON.encode()))) == {"c": 17.25, "name": "Küche"}
    assert only(decode(pack(b"17.25"), decoder="number")) == {"value": 17.25}
    assert only(decode(pack("außen 17 °C".encode()), decoder="text")) == {"value": "außen 17 °C"}
    assert only(decode(pack(b"a,17.25\n"), decoder="csv")) == {"c1": "a", "c2": 17.25}
    assert only(decode(pack(cbor2.dumps({"c": 17.25})), decoder="cbor")) == {"c": 17.25}
    assert only(decode(pack(msgpack.packb({"c": 17.25})), decoder="msgpack")) == {"c": 17.25}
    assert only(decode(pack(JSON.encode("utf-16")))) == {"c": 17.25, "name": "Küche"}


@pytest.mark.parametrize(
    "payload",
    [
        b"\xef\xbb\xbf" + JSON.encode(),
        JSON.encode("utf-16"),
        JSON.encode("utf-16-le"),
        JSON.encode("utf-16-be"),
        b"\xfe\xff" + JSON.encode("utf-16-be"),
    ],
    ids=["mark", "utf16", "little", "big", "big_mark"],
)
def test_a_byte_order_mark_and_utf16_are_understood(payload: bytes) -> None:
    decoded = decode(payload)
    assert only(decoded) == {"c": 17.25, "name": "Küche"}
    assert decoded.notes == ()


def test_one_bad_byte_costs_a_character_and_not_the_message_and_is_counted() -> None:
    decoded = decode(b'{"unit": "\xb0C", "c": 17.25}')
    assert only(decoded) == {"unit": "°C", "c": 17.25}
    assert decoded.notes == ("charset",)
    assert only(decode(b"17 \xb0C", decoder="text")) == {"value": "17 °C"}
    assert only(decode(b"n;\xfc\n", decoder="csv")) == {"c1": "n;ü"}


def test_text_in_utf16_or_with_a_mark_is_no_text_with_rubbish_in_it() -> None:
    assert only(decode("zu".encode("utf-16-le"), decoder="text")) == {"value": "zu"}
    assert only(decode("\ufeffzu".encode(), decoder="text")) == {"value": "zu"}


LINES = {
    "csv": (b"a,17.25\n", {"c1": "a", "c2": 17.25}),
    "ndjson": (b'{"c": 17.25}\n', {"c": 17.25}),
    "influx": (b"m c=17.25\n", {"measurement": "m", "c": 17.25}),
}


@pytest.mark.parametrize("decoder", LINES)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.decode().encode("utf-16"),
        lambda data: data + b"\0",
        lambda data: zstandard.ZstdCompressor(level=-5).compress(data),
        *PACKERS.values(),
    ],
)
def test_lines_are_unwrapped_as_a_whole(decoder: str, wrap: Callable[[bytes], bytes]) -> None:
    lines, fields = LINES[decoder]
    assert only(decode(wrap(lines), decoder=decoder)) == fields


def test_a_bad_byte_in_a_line_is_a_character_of_latin_1() -> None:
    decoded = decode(b'{"c": 17.25}\n{"c": 18, "name": "K\xfcche"}', decoder="ndjson")
    assert [dict(sample.fields) for sample in decoded.samples] == [{"c": 17.25}, {"c": 18, "name": "Küche"}]
    assert decoded.notes == ("charset",)


@pytest.mark.parametrize(
    ("payload", "decoder", "value"),
    [
        (b"17.25\0", "number", 17.25),
        (b"17,25\0\0", "number", 17.25),
        (b"OFF\0", "text", "OFF"),
        (b"ON\0\0", "text", "ON"),
        (b"true\0", "json", True),
        (b"K\xfc\0", "text", "Kü"),
        (b"a\0b", "text", "a\0b"),
    ],
)
def test_nuls_at_the_end_are_no_part_of_a_text(payload: bytes, decoder: str, value: object) -> None:
    assert only(decode(payload, decoder=decoder)) == {"value": value}


def test_a_decimal_comma_is_a_number_and_a_word_is_none() -> None:
    assert only(decode(b"-3,75", decoder="number")) == {"value": -3.75}
    assert only(decode(b"1.250,5\n", decoder="number")) == {"value": 1250.5}
    for payload in (b"12 W", b"12 W4", b"on", b"0x12", b"1_0", b"1;2"):
        assert decode(payload, decoder="number").problem == "number"


@pytest.mark.parametrize(
    ("payload", "spec", "problem"),
    [
        (gzip.compress(JSON.encode(), mtime=0), PayloadSpec(compression="none"), "json"),
        (gzip.compress(JSON.encode(), mtime=0)[:-9], PayloadSpec(), "compression"),
        (b"{broken", PayloadSpec(), "json"),
        (JSON.encode(), PayloadSpec(compression="gzip"), "compression"),
        (b"!!!", PayloadSpec(encoding="base64"), "base64"),
        (b"zz", PayloadSpec(encoding="hex"), "hex"),
        ("ü".encode("latin-1"), PayloadSpec(charset="utf-8"), "charset"),
    ],
)
def test_what_is_not_as_stated_is_a_problem_with_its_name(
    payload: bytes, spec: PayloadSpec, problem: str
) -> None:
    decoded = decode(payload, payload=spec)
    assert (decoded.problem, decoded.samples) == (problem, ())


def test_what_is_stated_is_done_to_every_message() -> None:
    wrapped = "eyJjIjogMX0"  # {"c": 1}
    assert only(decode(wrapped.encode(), payload=PayloadSpec(encoding="base64"))) == {"c": 1}
    assert only(decode(b"7b22 63223a317d", payload=PayloadSpec(encoding="hex"))) == {"c": 1}
    assert only(decode("1€".encode("cp1252"), decoder="text", payload=PayloadSpec(charset="cp1252"))) == {
        "value": "1€"
    }
    twice = PayloadSpec(compression="zlib", charset="utf-16")
    assert only(decode(zlib.compress(JSON.encode("utf-16")), payload=twice))["name"] == "Küche"


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
@pytest.mark.parametrize("decoder", ["json", "text", "msgpack"])
def test_a_bomb_is_refused_before_it_fills_the_memory(pack: Callable[[bytes], bytes], decoder: str) -> None:
    bomb = pack(b" " * (64 * MAX_DECODED_BYTES))
    assert len(bomb) < MAX_DECODED_BYTES
    decoded = decode(bomb, decoder=decoder)
    assert decoded.problem is not None
    assert decoded.samples == ()


@pytest.mark.parametrize("name", ["utf-99", "base64", "", "hex"])
def test_an_unknown_character_set_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        check_charset(name)


@given(payload=st.binary(max_size=60))
@pytest.mark.parametrize("decoder", ["json", "text", "number", "csv", "msgpack", "influx"])
def test_no_bytes_make_a_route_raise(decoder: str, payload: bytes) -> None:
    decode(payload, decoder=decoder)
    decode(payload, decoder=decoder, payload=PayloadSpec(encoding="base64"))
    decode(payload, decoder=decoder, payload=PayloadSpec(compression="zstd", charset="utf-16"))
