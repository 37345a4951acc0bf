"""Cloud services as brokers that enforce what their documentation says, and count each rule that is broken.

The limits and their sources are in docs/clouds.md. What breaks a rule ends the connection, as with these
services.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import orjson

from gateway.wire.encodings import decode_frame
from tests.support.gateways import wait_until
from tests.support.stub_broker import CLOSE, CONNECT, PUBLISH, Answer, Packet, StubBroker

POISON = b'"poison"'
_TAKE_OVER_S = 5.0  # within which the connection before has to be gone


@dataclass(frozen=True)
class ServiceRules:
    """What one service takes. None: no rule."""

    topic: str = r".+"
    versions: tuple[bool, ...] = (True, False)
    """Whether MQTT 5, or not."""
    client_id: str | None = None
    username: str | None = None
    password: Callable[[str], bool] | None = None
    payload_bytes: int | None = None
    packet_bytes: int | None = None
    levels: int | None = None
    per_s: int | None = None
    connects_apart_s: float = 0.0
    retain: bool = False
    will: bool = True
    payload: Callable[[bytes], bool] = field(default=lambda _payload: True)


class RuledBroker(StubBroker):
    """A broker with the rules of a service. `values` are those of the events that it has taken, in order;
    a message with a poisonous event ends the connection, whatever else is in it."""

    def __init__(self, rules: ServiceRules) -> None:
        super().__init__(self._judge)
        self.rules = rules
        self.violations: list[str] = []
        self.values: list[tuple[str, int]] = []
        self.poisoned = 0
        self.away = False
        """While it is set, every attempt to connect fails."""
        self._open: set[int] = set()
        self._came_s: deque[float] = deque()
        self._connected_s = -1e9
        self._expires_s: dict[int, int] = {}  # of a connection, where its password says it

    def ended(self, connection: int) -> None:
        self._open.discard(connection)

    def _judge(self, packet: Packet) -> Answer | None:
        broken: list[str] = []
        if packet.kind == CONNECT:
            if self.away:
                return CLOSE
            broken = [*self._connect(packet)]
            self._open.add(packet.connection)
            self._expires_s[packet.connection] = _expiry_s(packet.password or "")
        elif packet.kind == PUBLISH:
            broken = [*self._publish(packet)]
        if broken:
            self.violations += broken
            return CLOSE
        if packet.kind == PUBLISH:
            if POISON in _plain(packet.payload):
                self.poisoned += 1
                return CLOSE
            self.values += _values(packet)
        return None

    def _connect(self, packet: Packet) -> Iterator[str]:
        rules, now_s = self.rules, time.monotonic()
        if packet.v5 not in rules.versions:
            yield "the MQTT version"
        if rules.client_id is not None and packet.client_id != rules.client_id:
            yield f"the client id is {packet.client_id}"
        if rules.username is not None and packet.username != rules.username:
            yield f"the user name is {packet.username}"
        if rules.password is not None and not rules.password(packet.password or ""):
            yield "the password"
        if packet.will_topic is not None and not rules.will:
            yield "a will"
        if packet.will_retain and not rules.retain:
            yield "a retained will"
        if now_s - self._connected_s < rules.connects_apart_s:
            yield f"a connection after {now_s - self._connected_s:.2f} s"
        self._connected_s = now_s
        try:
            wait_until(lambda: not self._open, "the end of the connection before", _TAKE_OVER_S)
        except AssertionError:
            yield "a second connection"

    def _publish(self, packet: Packet) -> Iterator[str]:
        rules = self.rules
        if packet.qos > 1:
            yield "QoS 2"
        if packet.retain and not rules.retain:
            yield f"retained: {packet.topic}"
        if not re.fullmatch(rules.topic, packet.topic):
            yield f"the topic {packet.topic}"
        if rules.levels is not None and packet.topic.count("/") >= rules.levels:
            yield f"levels of {packet.topic}"
        if rules.payload_bytes is not None and len(packet.payload) > rules.payload_bytes:
            yield f"a payload of {len(packet.payload)} bytes"
        if rules.packet_bytes is not None and packet.size_bytes > rules.packet_bytes:
            yield f"a packet of {packet.size_bytes} bytes"
        if not rules.payload(packet.payload):
            yield f"the payload {packet.payload[:100]!r}"
        if time.time() > self._expires_s[packet.connection]:
            yield "a password that has run out"
        if rules.per_s is not None:
            now_s = time.monotonic()
            self._came_s.append(now_s)
            while self._came_s[0] < now_s - 1:
                self._came_s.popleft()
            # A busy machine lets some come late, and so close to the next ones.
            if len(self._came_s) > rules.per_s + max(5, rules.per_s // 10):
                yield f"{len(self._came_s)} messages in a second"


def is_telemetry(payload: bytes) -> bool:
    """Whether ThingsBoard would take it on v1/gateway/telemetry."""
    try:
        devices = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return False
    return isinstance(devices, dict) and all(
        isinstance(each, dict) and type(each.get("ts")) is int and isinstance(each.get("values"), dict)
        for entries in devices.values()
        for each in (entries if isinstance(entries, list) else [None])
    )


def is_signature(key: str, resource: str) -> Callable[[str], bool]:
    """Whether a password is a shared access signature for `resource` that has not run out."""

    def judge(password: str) -> bool:
        fields = parse_qs(password.removeprefix("SharedAccessSignature "))
        if not {"sr", "sig", "se"} <= fields.keys() or int(fields["se"][0]) < time.time():
            return False
        signed = f"{quote(resource, safe='')}\n{fields['se'][0]}".encode()
        wanted = base64.b64encode(hmac.new(base64.b64decode(key), signed, hashlib.sha256).digest())
        return unquote(resource) == fields["sr"][0] and fields["sig"][0] == wanted.decode()

    return judge


def _expiry_s(password: str) -> int:
    """When a shared access signature runs out; other passwords do not."""
    return int(parse_qs(password).get("se", ["9999999999"])[0])


def _plain(payload: bytes) -> bytes:
    """The payloads of the events in a message."""
    if payload[:1] in (b"{", b"["):
        return payload.replace(b'\\"', b'"')
    try:
        return b"\n".join(event.payload for event in decode_frame(payload).events)
    except ValueError:
        return payload


def _values(packet: Packet) -> Iterator[tuple[str, int]]:
    """Stream or device and `v` of each event in a message, of whatever format."""
    payload = packet.payload
    if payload.startswith(b'{"') and is_telemetry(payload):
        for device, entries in json.loads(payload).items():
            yield from ((device, each["values"]["v"]) for each in entries if "v" in each["values"])
        return
    try:
        events = [(event.stream, event.payload) for event in decode_frame(payload).events]
    except Exception:  # noqa: BLE001 - then it is no batch, but an event or no event at all
        events = [(packet.topic, payload)]
    for stream, body in events:
        with_value = json.loads(body) if body.startswith(b"{") else {}
        if "payload" in with_value:
            with_value = json.loads(with_value["payload"])
        if "v" in with_value:
            yield stream, with_value["v"]


@dataclass(frozen=True)
class Service:
    """What the owner of an account adds to a preset, and the rules that the service then has."""

    section: Mapping[str, Any]
    rules: ServiceRules


def services(folder: Path) -> Mapping[str, Service]:
    """All of them, by the name of their preset. What their keys need is written to `folder`."""
    key = base64.b64encode(b"a key of thirty-two bytes, or so").decode()
    (folder / "key").write_text(key)
    for name in ("device.pem", "device.key"):
        (folder / name).write_text("used with TLS only")
    certificate = {"cert_file": str(folder / "device.pem"), "key_file": str(folder / "device.key")}
    hub = "127.0.0.1"
    return {
        "aws_iot_core": Service(
            {"client_id": "plant-7", "tls": certificate},
            ServiceRules(
                *(r"gateway/g1/.*",),
                client_id="plant-7",
                payload_bytes=128 * 1024,
                levels=8,
                per_s=100,
                connects_apart_s=0.95,
            ),
        ),
        "azure_iot_hub": Service(
            {"client_id": "plant-7", "password": {"azure_sas": {"key_file": str(folder / "key")}}},
            ServiceRules(
                *(r"devices/plant-7/messages/events/",),
                versions=(False,),
                client_id="plant-7",
                username=f"{hub}/plant-7/?api-version=2021-04-12",
                password=is_signature(key, f"{hub}/devices/plant-7"),
                payload_bytes=256 * 1024,
                per_s=100,
                will=False,
            ),
        ),
        "azure_event_grid": Service(
            {"client_id": "plant-7", "username": "plant", "tls": certificate},
            ServiceRules(
                *(r"gateway/g1/.*",),
                client_id="plant-7",
                username="plant",
                packet_bytes=512 * 1024,
                per_s=1000,
                levels=15,
            ),
        ),
        "thingsboard": Service(
            {"username": "token"},
            ServiceRules(
                *(r"v1/gateway/(telemetry|attributes)",),
                versions=(False,),
                username="token",
                payload_bytes=64 * 1024,
                will=False,
                payload=is_telemetry,
            ),
        ),
        "hivemq_cloud": Service(
            {"username": "jo", "password": "secret"},
            ServiceRules(
                username="jo", password=lambda given: given == "secret", retain=True, versions=(True,)
            ),
        ),
        "emqx_cloud": Service(
            {"username": "jo", "password": "secret"},
            ServiceRules(
                *(r"gateway/g1/.*",),
                username="jo",
                password=lambda given: given == "secret",
                packet_bytes=1_000_000,
                per_s=10,
                retain=True,
            ),
        ),
        "adafruit_io": Service(
            {"username": "jo", "password": "aio_key", "messages": "1000/s"},  # else it takes hours
            ServiceRules(
                *(r"jo/feeds/[A-Za-z0-9-]+",),
                versions=(False,),
                username="jo",
                password=lambda given: given == "aio_key",
                payload_bytes=1024,
                per_s=1000,
                connects_apart_s=3.0,
                will=False,
            ),
        ),
    }
