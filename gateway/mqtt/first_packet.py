"""The first packet of a connection to the embedded broker: a CONNECT that amqtt can read, or an answer."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.errors import MQTTError

from gateway.mqtt import variable_integers

_CONNECT = 0x10
_WITHIN_S = 20.0
_MOST_BYTES = 256 * 1024  # a will may be long
_HEAD_3_1 = b"\x00\x06MQIsdp\x03"
_HEAD_3_1_1 = b"\x00\x04MQTT\x04"
_HEAD_5 = b"\x00\x04MQTT\x05"
_BAD_VERSION = bytes((0x20, 2, 0, 1))
_BAD_VERSION_5 = bytes((0x20, 3, 0, 0x84, 0))


async def read_connect(reader: ReaderAdapter, writer: WriterAdapter) -> bytes:
    """Return the CONNECT as MQTT 3.1.1, which 3.1 differs from in its first bytes only.

    Raises MQTTError, with the connection answered where there is an answer, and closed.
    """
    try:
        body = await asyncio.wait_for(_read_body(reader), _WITHIN_S)
    except OSError:  # TimeoutError is one
        await refuse(writer, b"", "no CONNECT in time")
    if body is None:
        await refuse(writer, b"", "the first packet is no CONNECT")
    if body.startswith(_HEAD_3_1):
        body = _HEAD_3_1_1 + body[len(_HEAD_3_1) :]
    if not body.startswith(_HEAD_3_1_1):
        await refuse(writer, _BAD_VERSION_5 if body.startswith(_HEAD_5) else _BAD_VERSION, "another version")
    return bytes((_CONNECT,)) + variable_integers.encode(len(body)) + body


async def refuse(writer: WriterAdapter, answer: bytes, reason: str) -> NoReturn:
    """Send `answer`, close, and raise MQTTError."""
    if answer:
        writer.write(answer)
        await writer.drain()
    await writer.close()
    raise MQTTError(reason)


async def _read_body(reader: ReaderAdapter) -> bytes | None:
    if await reader.read(1) != bytes((_CONNECT,)):
        return None
    length = 0
    for shift in (0, 7, 14, 21):
        byte = await reader.read(1)
        if not byte:
            return None
        length |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
    if not 10 <= length <= _MOST_BYTES:
        return None
    body: bytes = await reader.read(length)
    return body if len(body) == length else None
