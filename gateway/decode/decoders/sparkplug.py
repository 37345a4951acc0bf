"""Sparkplug B payloads (Eclipse Tahu's sparkplug_b.proto), one message at a time.

Aliases are not resolved here, that takes the birth message: see `gateway.decode.sparkplug_births`. A data set
is an object with `columns` and `rows`, a template one of its members, so that a field can name a part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as ProtobufError

from gateway.core.errors import DecodeError
from gateway.decode.decoders.plain import check_size
from gateway.decode.payload import PayloadSpec, second_readings, stated
from gateway.decode.sparkplug_births import signed

_TYPE = descriptor_pb2.FieldDescriptorProto
_PAYLOAD = {
    "timestamp": (1, _TYPE.TYPE_UINT64),
    "metrics": (2, _TYPE.TYPE_MESSAGE),
    "seq": (3, _TYPE.TYPE_UINT64),
    "uuid": (4, _TYPE.TYPE_STRING),
    "body": (5, _TYPE.TYPE_BYTES),
}
# Properties and metadata are skipped.
_METRIC = {
    "name": (1, _TYPE.TYPE_STRING),
    "alias": (2, _TYPE.TYPE_UINT64),
    "timestamp": (3, _TYPE.TYPE_UINT64),
    "datatype": (4, _TYPE.TYPE_UINT32),
    "is_historical": (5, _TYPE.TYPE_BOOL),
    "is_transient": (6, _TYPE.TYPE_BOOL),
    "is_null": (7, _TYPE.TYPE_BOOL),
    "int_value": (10, _TYPE.TYPE_UINT32),
    "long_value": (11, _TYPE.TYPE_UINT64),
    "float_value": (12, _TYPE.TYPE_FLOAT),
    "double_value": (13, _TYPE.TYPE_DOUBLE),
    "boolean_value": (14, _TYPE.TYPE_BOOL),
    "string_value": (15, _TYPE.TYPE_STRING),
    "bytes_value": (16, _TYPE.TYPE_BYTES),
    "dataset_value": (17, _TYPE.TYPE_MESSAGE),
    "template_value": (18, _TYPE.TYPE_MESSAGE),
}
_TEMPLATE = {"metrics": (2, _TYPE.TYPE_MESSAGE), "is_definition": (5, _TYPE.TYPE_BOOL)}
_DATA_SET = {
    "columns": (2, _TYPE.TYPE_STRING),
    "types": (3, _TYPE.TYPE_UINT32),
    "rows": (4, _TYPE.TYPE_MESSAGE),
}
_ROW = {"elements": (1, _TYPE.TYPE_MESSAGE)}
_CELL = {
    "int_value": (1, _TYPE.TYPE_UINT32),
    "long_value": (2, _TYPE.TYPE_UINT64),
    "float_value": (3, _TYPE.TYPE_FLOAT),
    "double_value": (4, _TYPE.TYPE_DOUBLE),
    "boolean_value": (5, _TYPE.TYPE_BOOL),
    "string_value": (6, _TYPE.TYPE_STRING),
}
_MESSAGES = {
    "Metric": _METRIC,
    "Payload": _PAYLOAD,
    "Template": _TEMPLATE,
    "DataSet": _DATA_SET,
    "Row": _ROW,
    "Cell": _CELL,
}
_NESTED = {
    "metrics": "Metric",
    "dataset_value": "DataSet",
    "template_value": "Template",
    "rows": "Row",
    "elements": "Cell",
}
_REPEATED = frozenset({"metrics", "columns", "types", "rows", "elements"})
_VALUES = tuple(name for name in _METRIC if name.endswith("_value"))
_CELL_VALUES = tuple(_CELL)
_BOOLEAN = 11

COMPRESSED = "SPBV1.0_COMPRESSED"
"""The `uuid` of a payload whose body is another payload, compressed."""
_ALGORITHMS: Mapping[object, PayloadSpec] = {
    "GZIP": PayloadSpec(compression="gzip"),
    "DEFLATE": PayloadSpec(compression="zlib"),
}


def _message(name: str, fields: Mapping[str, tuple[int, int]]) -> descriptor_pb2.DescriptorProto:
    message = descriptor_pb2.DescriptorProto(name=name)
    for field_name, (number, kind) in fields.items():
        nested = _NESTED.get(field_name)
        message.field.add(
            name=field_name,
            number=number,
            type=kind,
            label=_TYPE.LABEL_REPEATED if field_name in _REPEATED else _TYPE.LABEL_OPTIONAL,
            type_name=f".sparkplug.{nested}" if nested else None,
        )
    return message


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", package="sparkplug", syntax="proto2")
    file.message_type.extend(_message(name, fields) for name, fields in _MESSAGES.items())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sparkplug.Payload"))


Payload = _payload_class()


def parse_sparkplug_b(payload: bytes, _arrival_ms: int = 0) -> dict[str, object]:
    """`timestamp` (ms), `seq`, and `metrics`, each with `value` and what else it has of `_metric`'s names."""
    message = outer = _parsed(payload)
    if outer.uuid == COMPRESSED:
        message = _parsed(_unpacked(outer))
    whole = ("timestamp", "seq")
    metrics = [_metric(metric) for metric in message.metrics]
    return {**_present(outer, whole), **_present(message, whole), "metrics": metrics}


def _parsed(payload: bytes) -> Any:
    check_size(payload)
    message = Payload()
    try:
        message.ParseFromString(payload)
    except ProtobufError as exc:
        raise DecodeError(f"not Sparkplug B: {exc}", reason="sparkplug") from exc
    return message


def _unpacked(message: Any) -> bytes:
    """The body of a compressed payload. Without a known algorithm it is found out from the bytes, and some
    call raw deflate DEFLATE too."""
    named = next(
        (_text(each.string_value) for each in message.metrics if each.name == "algorithm"), "DEFLATE"
    )
    try:
        return stated(message.body, _ALGORITHMS[named.upper()], is_text=False)
    except (DecodeError, KeyError) as exc:
        found = next(second_readings(message.body, PayloadSpec(), is_text=False), None)
        if found is None:
            raise DecodeError(f"a body compressed as {named!r}", reason="compression") from exc
        return found[0]


def _present(message: Any, names: tuple[str, ...]) -> dict[str, object]:
    return {name: getattr(message, name) for name in names if message.HasField(name)}


def _text(found: str | bytes) -> str:
    """A text of the message: protobuf hands over bytes where it is not UTF-8."""
    return found if isinstance(found, str) else found.decode("latin-1")


def _metric(metric: Any) -> dict[str, object]:
    found = _present(metric, ("alias", "timestamp", "datatype", "is_historical"))
    if metric.HasField("name"):
        found["name"] = _text(metric.name)
    return {**found, "value": _value(metric)}


def _value(metric: Any) -> object:
    carrier = next((name for name in _VALUES if metric.HasField(name)), None)
    if carrier is None or metric.is_null:
        return None
    value = getattr(metric, carrier)
    if carrier == "dataset_value":
        return _data_set(value)
    if carrier == "template_value":
        return None if value.is_definition else {_text(each.name): _value(each) for each in value.metrics}
    if carrier == "string_value":
        return _text(value)
    if isinstance(value, bytes):
        return value.hex()
    return signed(value, metric.datatype)


def _data_set(found: Any) -> dict[str, object]:
    return {
        "columns": list(map(_text, found.columns)),
        "rows": [_cells(row, found.types) for row in found.rows],
    }


def _cells(row: Any, types: Sequence[int]) -> list[object]:
    return [_cell(cell, kind) for cell, kind in zip_longest(row.elements, types[: len(row.elements)])]


def _cell(cell: Any, kind: int | None) -> object:
    carrier = next((name for name in _CELL_VALUES if cell.HasField(name)), None)
    if carrier is None:
        return None
    value = getattr(cell, carrier)
    return _text(value) if carrier == "string_value" else signed(value, kind)


def rebirth_payload(now_ms: int) -> bytes:
    """The rebirth command to an edge node: it then publishes all of its metrics again."""
    message = Payload(timestamp=now_ms)
    message.metrics.add(name="Node Control/Rebirth", timestamp=now_ms, datatype=_BOOLEAN, boolean_value=True)
    payload: bytes = message.SerializeToString()
    return payload
