"""Sparkplug B payloads (Eclipse Tahu's sparkplug_b.proto), one message at a time.

Aliases are not resolved here, that takes the birth message: see `gateway.decode.sparkplug_births`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as ProtobufError

from gateway.core.errors import DecodeError
from gateway.decode.decoders.plain import check_size
from gateway.decode.sparkplug_births import signed

_TYPE = descriptor_pb2.FieldDescriptorProto
_PAYLOAD = {
    "timestamp": (1, _TYPE.TYPE_UINT64),
    "metrics": (2, _TYPE.TYPE_MESSAGE),
    "seq": (3, _TYPE.TYPE_UINT64),
    "uuid": (4, _TYPE.TYPE_STRING),
    "body": (5, _TYPE.TYPE_BYTES),
}
# The fields that carry numbers, text and their time. Data sets, templates and properties are skipped.
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
}
_VALUES = tuple(name for name in _METRIC if name.endswith("_value"))
_BOOLEAN = 11


def _message(name: str, fields: Mapping[str, tuple[int, int]]) -> descriptor_pb2.DescriptorProto:
    message = descriptor_pb2.DescriptorProto(name=name)
    for field_name, (number, kind) in fields.items():
        nested = kind == _TYPE.TYPE_MESSAGE
        message.field.add(
            name=field_name,
            number=number,
            type=kind,
            label=_TYPE.LABEL_REPEATED if nested else _TYPE.LABEL_OPTIONAL,
            type_name=".sparkplug.Metric" if nested else None,
        )
    return message


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", package="sparkplug", syntax="proto2")
    file.message_type.extend([_message("Metric", _METRIC), _message("Payload", _PAYLOAD)])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sparkplug.Payload"))


Payload = _payload_class()


def parse_sparkplug_b(payload: bytes, _arrival_ms: int = 0) -> dict[str, object]:
    """`timestamp` (ms), `seq`, and `metrics`, each with `value` and what else it has of `_metric`'s names."""
    check_size(payload)
    message = Payload()
    try:
        message.ParseFromString(payload)
        metrics = [_metric(metric) for metric in message.metrics]
    except (ProtobufError, UnicodeDecodeError) as exc:
        raise DecodeError(f"not Sparkplug B: {exc}", reason="sparkplug") from exc
    return {**_present(message, ("timestamp", "seq")), "metrics": metrics}


def _present(message: Any, names: tuple[str, ...]) -> dict[str, object]:
    return {name: getattr(message, name) for name in names if message.HasField(name)}


def _metric(metric: Any) -> dict[str, object]:
    names = ("name", "alias", "timestamp", "datatype", "is_historical")
    return {**_present(metric, names), "value": _value(metric)}


def _value(metric: Any) -> object:
    carrier = next((name for name in _VALUES if metric.HasField(name)), None)
    if carrier is None or metric.is_null:
        return None
    value = getattr(metric, carrier)
    if isinstance(value, bytes):
        return value.hex()
    return signed(value, metric.datatype)


def rebirth_payload(now_ms: int) -> bytes:
    """The rebirth command to an edge node: it then publishes all of its metrics again."""
    message = Payload(timestamp=now_ms)
    message.metrics.add(name="Node Control/Rebirth", timestamp=now_ms, datatype=_BOOLEAN, boolean_value=True)
    payload: bytes = message.SerializeToString()
    return payload
