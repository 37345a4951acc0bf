"""SenML in JSON and in CBOR (RFC 8428), with the base fields resolved into each record."""

from __future__ import annotations

from gateway.core.errors import DecodeError
from gateway.core.numbers import is_number
from gateway.decode.decoders.plain import parse_json

# RFC 8428, 4.5.3: a smaller time counts from now, a larger one from 1970.
ABSOLUTE_TIME_S = 2**28
_VERSION = 10
# What begins with it can be no JSON in UTF-8.
_CBOR_ARRAY = b"\x80"
# RFC 8428, table 4: the labels of CBOR.
_LABELS = {
    **{"-1": "bver", "-2": "bn", "-3": "bt", "-4": "bu", "-5": "bv", "-6": "bs"},
    **{"0": "n", "1": "u", "2": "v", "3": "vs", "4": "vb", "5": "s", "6": "t", "7": "ut", "8": "vd"},
}


def _from_cbor(payload: bytes) -> object:
    try:
        from gateway.decode.decoders.cbor import parse_cbor  # noqa: PLC0415 - needs an extra
    except ImportError as exc:
        raise DecodeError(
            "SenML in CBOR needs a package", reason="senml_cbor", hint="pip install 'mqtt-edge-gateway[cbor]'"
        ) from exc
    pack = parse_cbor(payload)
    if not isinstance(pack, list):
        return pack
    return [
        {_LABELS.get(label, label): value for label, value in record.items()}
        if isinstance(record, dict)
        else record
        for record in pack
    ]


def parse_senml(payload: bytes, arrival_ms: int) -> list[dict[str, object]]:
    """Records with `name`, `value`, `unit` (empty without one), and `time` in seconds where they have one."""
    pack = _from_cbor(payload) if payload[:1] >= _CBOR_ARRAY else parse_json(payload)
    if not isinstance(pack, list):
        raise DecodeError("a SenML pack is a JSON array", reason="senml")
    base: dict[str, object] = {}
    resolved = []
    for record in pack:
        if not isinstance(record, dict):
            raise DecodeError("a SenML record is a JSON object", reason="senml")
        _check_understood(record)
        base |= {label: value for label, value in record.items() if label in ("bn", "bt", "bu", "bv", "bs")}
        if not record.keys().isdisjoint(("v", "vs", "vb", "vd", "s")):
            resolved.append(_resolve(record, base, arrival_ms))
    return resolved


def _check_understood(record: dict[str, object]) -> None:
    version = record.get("bver", _VERSION)
    if not isinstance(version, (int, float)) or version > _VERSION:
        raise DecodeError(f"SenML version {version!r} is not known", reason="senml")
    unknown = [label for label in record if label.endswith("_")]
    if unknown:
        raise DecodeError(f"SenML label {unknown[0]!r} must be understood, and is not", reason="senml")


def _resolve(record: dict[str, object], base: dict[str, object], arrival_ms: int) -> dict[str, object]:
    name = f"{_text(base.get('bn'))}{_text(record.get('n'))}"
    resolved = {"name": name, "value": _value(record, base), "unit": _text(record.get("u", base.get("bu")))}
    if "s" in record:
        resolved["sum"] = _number(base.get("bs")) + _number(record["s"])
    time_s = _number(base.get("bt")) + _number(record.get("t"))
    if time_s:
        resolved["time"] = time_s if time_s >= ABSOLUTE_TIME_S else arrival_ms / 1000 + time_s
    return resolved


def _value(record: dict[str, object], base: dict[str, object]) -> object:
    if "v" in record:
        number, base_value = record["v"], base.get("bv", 0)
        return base_value + number if is_number(number) and is_number(base_value) else None
    return record.get("vs", record.get("vb", record.get("vd")))


def _number(value: object) -> float:
    return value if is_number(value) else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
