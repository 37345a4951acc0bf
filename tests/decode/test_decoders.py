import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import DecodeError
from gateway.decode.decoders import DECODER_NAMES, decoder, missing_extra
from gateway.decode.decoders.plain import MAX_DECODED_BYTES

NOW_MS = 1_777_593_600_000


def parse(name: str, payload: bytes) -> Any:
    return decoder(name).parse(payload, NOW_MS)


def refusal(name: str, payload: bytes) -> str:
    with pytest.raises(DecodeError) as raised:
        parse(name, payload)
    return raised.value.reason


@pytest.mark.parametrize("name", DECODER_NAMES)
@given(payload=st.binary(max_size=200))
def test_a_decoder_gives_json_like_data_or_a_decode_error_for_any_bytes(name: str, payload: bytes) -> None:
    try:
        document = parse(name, payload)
    except DecodeError as exc:
        assert exc.reason.isidentifier()
    else:
        json.dumps(document)


@pytest.mark.parametrize("token", ["NaN", "nan", "-nan", "Infinity", "-Infinity", "inf", "-inf"])
def test_not_a_number_in_json_becomes_null(token: str) -> None:
    assert parse("json", f'{{"a":{token},"b":[1,{token}],"c":"{token}"}}'.encode()) == {
        "a": None,
        "b": [1, None],
        "c": token,
    }


def test_a_text_with_escaped_quotes_keeps_its_nan() -> None:
    assert parse("json", rb'{"a":"\" NaN \\","b":NaN}') == {"a": '" NaN \\', "b": None}


@pytest.mark.parametrize("payload", [b"{", b"ON", b'{"a":}', b'{"banana":nanometre}', b'"\xff"', b"[" * 5000])
def test_broken_json_is_refused(payload: bytes) -> None:
    assert refusal("json", payload) == "json"


def test_a_long_row_of_open_quotes_is_refused_in_passing() -> None:
    assert refusal("json", b'nan"' + b'\\"' * 250_000) == "json"


@pytest.mark.parametrize("name", sorted(set(DECODER_NAMES) - {"raw"}))
def test_an_empty_and_a_huge_payload_are_refused(name: str) -> None:
    assert refusal(name, b"") == "empty"
    assert refusal(name, b"1" * (MAX_DECODED_BYTES + 1)) == "too_large"


@pytest.mark.parametrize(
    ("payload", "number"),
    [(b"21.5", 21.5), (b" -3\n", -3.0), (b"0.00", 0.0), (b"1e3", 1000.0), (b"nan", None), (b"-inf", None)],
)
def test_a_plain_number_is_read(payload: bytes, number: float) -> None:
    assert parse("number", payload) == number


@pytest.mark.parametrize("payload", [b"ON", b"21,5", b"21.5 C", b"1_000", b"0x10", "２１".encode(), b"\xff"])
def test_what_is_not_a_plain_number_is_refused(payload: bytes) -> None:
    assert refusal("number", payload) == "number"


def test_text_is_utf8() -> None:
    assert parse("text", "21 °C".encode()) == "21 °C"
    assert refusal("text", b"\xff\xfe") == "utf8"


def test_cbor_is_reduced_to_what_json_can_say() -> None:
    item = {
        "t": 21.5,
        "at": datetime(2026, 5, 1, tzinfo=UTC),
        "raw": b"\x01\xff",
        "exact": Decimal("1.25"),
        7: [True, None],
        "huge": 2**70,
    }
    assert parse("cbor", cbor2.dumps(item)) == {
        "t": 21.5,
        "at": "2026-05-01T00:00:00+00:00",
        "raw": "01ff",
        "exact": 1.25,
        "7": [True, None],
        "huge": 2.0**70,
    }


def test_text_that_begins_like_cbor_is_refused() -> None:
    assert refusal("cbor", b"21.5") == "cbor"


def test_cbor_that_refers_to_itself_is_refused() -> None:
    assert refusal("cbor", bytes.fromhex("d81c81d81d00")) == "cbor"


def test_cbor_that_repeats_itself_by_reference_is_refused() -> None:
    # Each level holds the one before twice: 40 levels are a trillion items.
    item = bytes.fromhex("d81c820000")
    for level in range(40):
        item = bytes.fromhex("d81c82") + item + b"\xd8\x1d" + cbor2.dumps(40 - level)
    assert refusal("cbor", item) == "cbor"


def test_deep_cbor_is_refused() -> None:
    assert refusal("cbor", b"\x81" * 100_000 + b"\x00") == "cbor"


def test_sparkplug_metrics_are_read_from_the_wire() -> None:
    # Written out by hand: field 1 timestamp, field 2 metric (1 name, 3 timestamp, 4 datatype, 10 int_value).
    metric = b"\x0a\x01a" + b"\x18\x05" + b"\x20\x01" + b"\x50\xfe\x01"
    payload = b"\x08\x07" + b"\x12" + bytes([len(metric)]) + metric + b"\x18\x03"
    assert parse("sparkplug_b", payload) == {
        "timestamp": 7,
        "seq": 3,
        "metrics": [{"name": "a", "timestamp": 5, "datatype": 1, "value": -2}],
    }


def test_sparkplug_fields_that_are_not_known_are_skipped() -> None:
    metric = b"\x0a\x01a" + b"\x92\x01\x02\x0a\x00" + b"\x69" + b"\x00" * 6 + b"\xf0\x3f"
    assert parse("sparkplug_b", b"\x12" + bytes([len(metric)]) + metric) == {
        "metrics": [{"name": "a", "value": 1.0}]
    }


def test_senml_times_resolve_against_the_base_or_now() -> None:
    base = parse("senml", b'[{"bn":"x/","bt":1700000000,"n":"a","v":1},{"n":"b","t":-1.5,"v":2}]')
    assert [(record["name"], record["time"]) for record in base] == [
        ("x/a", 1_700_000_000),
        ("x/b", 1_699_999_998.5),
    ]
    now = parse("senml", b'[{"n":"a","t":-10,"v":1},{"n":"b","v":2}]')
    assert now[0]["time"] == NOW_MS / 1000 - 10
    assert "time" not in now[1]


def test_senml_values_and_sums_add_to_their_bases() -> None:
    (record,) = parse("senml", b'[{"bv":100,"bs":10,"n":"a","v":1.5,"s":2}]')
    assert (record["value"], record["sum"]) == (101.5, 12)


@pytest.mark.parametrize(
    "payload",
    [b"{}", b"[1]", b'[{"bver":11,"n":"a","v":1}]', b'[{"n":"a","v":1,"strict_":2}]', b'[{"bver":"x"}]'],
)
def test_senml_that_must_not_be_guessed_at_is_refused(payload: bytes) -> None:
    assert refusal("senml", payload) == "senml"


def test_an_installed_extra_is_not_missing() -> None:
    assert [missing_extra(name) for name in DECODER_NAMES] == [None] * len(DECODER_NAMES)
