"""A single MQTT connection through paho, separate from the loop that drives it.

All of it runs on the thread of the `Link` that made it, and a connection is used once:
- nothing is acknowledged before its owner says so: neither QoS 1 (PUBACK) nor QoS 2 (PUBREC), also where a
  broker delivers QoS 2 although it granted QoS 1;
- a PUBREL is handed on, and answered (PUBCOMP) when its owner says so;
- whole PUBLISH packets of QoS 0 and 1 do not reach paho (`publishes`), unless it is amid another packet;
- messages that are sent in bulk, and the answers to them, do not reach paho either (`bulk_publishes`).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import paho.mqtt.client as paho
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.core.errors import BrokerError, SilentBrokerError
from gateway.core.events import Message
from gateway.delivery.refusals import reason_name, reason_text
from gateway.mqtt import variable_integers
from gateway.mqtt.bulk_publishes import FIRST_ID, BulkPublishes, split_answers
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.handshakes import Handshakes
from gateway.mqtt.liveness import Liveness
from gateway.mqtt.publishes import Kept, Splitter, acknowledgements
from gateway.mqtt.sockets import BufferedSocket
from gateway.mqtt.transport import open_transport, refused, unanswered

CONNECT_TIMEOUT_S = 10.0
SUBSCRIBE_LIMIT = 8  # AWS IoT Core takes no more filters in one packet, and closes the connection
_PACKETS_PER_TURN = 2000
_ONLY_NEW = 1  # MQTT 5, 3.8.3.1: retained messages only for a subscription that did not exist
_FAILURE = 0x80
_NO_MAXIMUM = 65_535  # MQTT 5, 3.2.2.3.3: the Receive Maximum of a broker that does not say one
_CONNACK_3 = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}  # return codes of 3.1.1 as reason codes of 5
_CREDENTIALS = "check the username, the password and the client_id that the configuration gives"
_HINTS = {
    0x84: "set protocol to the version that this broker speaks, 3.1.1 or 5",
    0x85: "set client_id to one that this broker allows",
    0x86: _CREDENTIALS,
    0x87: _CREDENTIALS,
    0x9C: "change url",
    0x9D: "change url",
}
_PUBCOMP = b"\x70\x02"
_PUBREC = b"\x50\x02"
_QOS_2 = 2
_PINGREQ = b"\xc0\x00"


class Connack(NamedTuple):
    """The broker's answer to the connection. MQTT 3.1.1 gives only the first field."""

    session_present: bool
    max_packet_bytes: int | None = None
    receive_maximum: int = _NO_MAXIMUM
    retain_available: bool = True
    session_expiry_s: int | None = None  # None: what was asked for
    subscription_ids: bool = False
    topic_alias_maximum: int = 0


class Listener(Protocol):
    """Callbacks from a connection; called while the loop reads."""

    def accepted(self, connack: Connack) -> None:
        """The broker accepted the connection."""

    def published(self, packet_id: int, reason_code: int) -> None:
        """The broker answered a QoS 1 publish."""

    def published_many(self, packet_ids: Sequence[int], reason_code: int) -> None:
        """The broker answered messages that were sent in bulk, all in the same way."""

    def released(self, packet_id: int) -> None:
        """The broker sent the PUBREL of a QoS 2 message."""

    def subscribed(self, codes: dict[str, int]) -> None:
        """The broker answered a SUBSCRIBE: the granted QoS by filter, or a reason >= 128."""

    def unsubscribed(self, filters: Sequence[str]) -> None:
        """The broker answered an UNSUBSCRIBE."""


class Connection:
    """A connection to `endpoint`. `open` it, then `read` and `write` in turn until `close`.

    What the broker refuses and whatever is malformed raises BrokerError, or what paho raises.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        listener: Listener,
        now_ms: Callable[[], int],
        epoch: int,
        *,
        aliases: bool = True,
    ) -> None:
        self.accepted = False
        self.closing = False  # by our own wish
        self.closed_by_broker = False  # after it had accepted
        self.refused_code: int | None = None  # of a CONNACK that is none
        self.farewell_code: int | None = None  # of the broker's DISCONNECT, if it sent one (MQTT 5)
        self._endpoint = endpoint
        self._listener = listener
        self._now_ms = now_ms
        self._epoch = epoch
        self._inbox: list[Message] = []
        self._splitter = Splitter(v5=endpoint.protocol == "5", epoch=epoch)
        self._refused = ""
        self._asked: dict[int, list[str]] = {}  # filters by the packet id of their (UN)SUBSCRIBE
        self._client = self._make_client()
        self._aliases = aliases
        self._receive_maximum = _NO_MAXIMUM
        self.bulk = BulkPublishes(self._send, v5=endpoint.protocol == "5")
        self._handshakes = Handshakes()
        self._brings_qos_2 = False
        self._liveness = Liveness(endpoint.keepalive_s, time.monotonic())

    # --- for the loop ---

    def open(self) -> BufferedSocket:
        """Connect, with TLS, and queue the CONNECT. Blocks for CONNECT_TIMEOUT_S at most."""
        endpoint = self._endpoint
        self._client.connect(endpoint.host, endpoint.port, endpoint.keepalive_s, **self._v5_connect())
        return self._client.connection

    def read(self) -> list[Message]:
        """Handle what has arrived, up to a limit; return the messages among it, in order."""
        client, connection = self._client, self._client.connection
        try:
            connection.fill()
        except ConnectionError as exc:
            if self.accepted:
                raise
            raise BrokerError(unanswered(self._endpoint, connection.first_bytes)) from exc
        except ssl.SSLError as exc:
            raise BrokerError(refused(self._endpoint, exc)) from exc
        room = _PACKETS_PER_TURN
        while room > 0 and connection.readable:
            if taken := self._split(room):
                room -= taken
                continue
            room -= 1
            code = client.loop_read()
            if not self.accepted and self.refused_code is None and code > 0:
                raise BrokerError(unanswered(self._endpoint, connection.first_bytes))
            self._raise_refusal()  # it says why; paho's code only that something was wrong
            _check(code)
            self._raise_refusal()
        if self.bulk.unanswered:
            connection.confirm_at_once()  # their answers are many small packets
        messages, self._inbox = self._inbox, []
        return messages

    def _split(self, most: int) -> int:
        """Take the messages that can be read without paho; return how many there were."""
        client, connection = self._client, self._client.connection
        if not self.accepted or not client.between_packets:
            return 0
        if self.bulk.unanswered:
            groups, end = split_answers(*connection.ahead)
            if groups:
                connection.skip_to(end)
                client.note_received()
                for packet_ids, code in groups:
                    self._answered(packet_ids, code)
                return sum(len(packet_ids) for packet_ids, _ in groups)
        messages, end = self._splitter.split(*connection.ahead, most, self._now_ms())
        if messages:
            connection.skip_to(end)
            client.note_received()
            self._inbox += messages
        return len(messages)

    def write(self) -> None:
        """Send what is queued, as far as the peer takes it."""
        self._client.loop_write()
        self._client.connection.flush()

    def keep_alive(self, *, listening: bool) -> None:
        """Ping the broker when it is due. Call it once a second, with whether `read` is being called.

        Raises SilentBrokerError when the broker does not answer.
        """
        client, now_s = self._client, time.monotonic()
        if not listening:
            client.excuse()
        _check(client.loop_misc())
        self._raise_refusal()
        self._go_on_with_handshakes()
        if self.accepted:
            self._ask_for_life(now_s, listening=listening)

    def _ask_for_life(self, now_s: float, *, listening: bool) -> None:
        connection, liveness = self._client.connection, self._liveness
        traffic = connection.traffic
        liveness.note(now_s, traffic)
        if not listening:
            liveness.excuse(now_s)
        elif liveness.is_due(now_s):
            connection.send(_PINGREQ)
            liveness.asked(now_s, connection.traffic)
        elif silent_s := liveness.silent_s(now_s):
            raise SilentBrokerError(f"{self._endpoint.place} has not answered for {silent_s:.0f} s")

    def say_goodbye(self) -> None:
        """Send DISCONNECT, behind what is queued."""
        self._client.disconnect()
        self._client.loop_write()

    def close(self) -> None:
        self._client.close()

    @property
    def wire_bytes(self) -> int:
        """Bytes sent on this connection, with those that still wait for the network."""
        return self._client.wire_bytes

    @property
    def unsent_bytes(self) -> int:
        return self._client.connection.unsent_bytes

    # --- for the owner ---

    def subscribe(
        self, filters: Sequence[tuple[str, int]], retained: Literal["always", "new"], identifier: int
    ) -> None:
        """Subscribe to (filter, QoS) pairs, in packets that every broker takes."""
        v5 = self._endpoint.protocol == "5"
        handling = _ONLY_NEW if retained == "new" else 0
        properties = Properties(PacketTypes.SUBSCRIBE) if v5 and identifier else None
        if properties is not None:
            properties.SubscriptionIdentifier = identifier
        for part in _parts(filters):
            asked: list[Any] = [
                (name, SubscribeOptions(qos, retainHandling=handling) if v5 else qos) for name, qos in part
            ]
            _, packet_id = self._client.subscribe(asked, properties=properties)
            self._asked[packet_id or 0] = [name for name, _ in part]

    def unsubscribe(self, filters: Sequence[str]) -> None:
        for part in _parts(filters):
            _, packet_id = self._client.unsubscribe(list(part))
            self._asked[packet_id or 0] = list(part)

    def ack(self, messages: Sequence[Message]) -> None:
        """Acknowledge what came on this connection. Written past paho's queue, which costs more than all the
        rest of it; the socket takes whole packets only, so the order of packets is all that differs."""
        self._client.connection.send(acknowledgements(messages, self._epoch))
        if self._brings_qos_2:
            self._handshakes.add(m.packet_id for m in messages if m.qos == _QOS_2 and m.epoch == self._epoch)
            self._go_on_with_handshakes()

    def complete(self, packet_id: int) -> None:
        """Answer a PUBREL."""
        self._client.connection.send(_PUBCOMP + packet_id.to_bytes(2, "big"))
        self._handshakes.completed(packet_id)
        self._go_on_with_handshakes()

    def _go_on_with_handshakes(self) -> None:
        packet_id = self._handshakes.due(time.monotonic())
        if packet_id is not None:
            self._client.connection.send(_PUBREC + packet_id.to_bytes(2, "big"))

    @property
    def full(self) -> bool:
        """True if the broker takes no further message at QoS 1 before it has answered one."""
        return self._client.full

    def publish_bytes(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        properties: Sequence[tuple[str, str]],
        correlation: bytes,
    ) -> int:
        """The size of the packet that `publish` would send."""
        body = 2 + len(topic.encode()) + (2 if qos else 0) + len(payload)
        if self._endpoint.protocol == "5":
            size = sum(5 + len(name.encode()) + len(value.encode()) for name, value in properties)
            size += 3 + len(correlation) if correlation else 0
            body += size + variable_integers.size_bytes(size)
        return 1 + variable_integers.size_bytes(body) + body

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        properties: Sequence[tuple[str, str]],
        correlation: bytes,
    ) -> int:
        """Publish and return the packet id; what is more than the broker takes at once (Receive Maximum) goes
        out with the answers. `properties` are MQTT 5 user properties."""
        sent: Properties | None = None
        if (properties or correlation) and self._endpoint.protocol == "5":
            sent = Properties(PacketTypes.PUBLISH)
            if properties:
                sent.UserProperty = list(properties)
            if correlation:
                sent.CorrelationData = correlation
        info = self._client.publish(topic, payload, qos, retain, sent)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise BrokerError(f"publish to {self._endpoint.place} failed: {paho.error_string(info.rc)}")
        return int(info.mid)

    def publish_many(
        self,
        topics: Sequence[str],
        payloads: Sequence[bytes],
        properties: Sequence[bytes],
        limit_bytes: int | None,
    ) -> tuple[list[int], int]:
        """Publish in bulk: see `BulkPublishes.publish`."""
        sent = self.bulk.publish(topics, payloads, properties, limit_bytes)
        self._share_places()
        return sent

    def _send(self, data: bytes) -> None:
        self._client.connection.send(data)

    def _answered(self, packet_ids: Sequence[int], code: int) -> None:
        found = self.bulk.answered(packet_ids, code)
        self._share_places()
        if found:
            self._listener.published_many(found, code)

    def _share_places(self) -> None:
        """Leave paho the places under the Receive Maximum that no message sent in bulk has taken."""
        self._client.take_at_once(self._receive_maximum - self.bulk.unanswered)

    # --- paho ---

    def _make_client(self) -> _Client:
        endpoint = self._endpoint
        v5 = endpoint.protocol == "5"
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=endpoint.client_id,
            clean_session=None if v5 else not endpoint.persistent,
            protocol=paho.MQTTv5 if v5 else paho.MQTTv311,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the sessions keep windows of their own
        client.endpoint = endpoint
        if endpoint.username is not None:
            client.username_pw_set(endpoint.username, endpoint.current_password())
        if endpoint.will is not None:
            will = endpoint.will
            payload = will.payload() if callable(will.payload) else will.payload
            client.will_set(will.topic, payload, will.qos, will.retain)
        client.on_socket_register_write = _ignore  # paho then leaves all writing to the loop
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.suback = self._on_suback
        client.refused = self._on_refused
        client.pubrel = self._on_pubrel
        client.answered = self._answered
        client.on_unsubscribe = self._on_unsubscribe
        client.on_disconnect = self._on_disconnect
        return client

    def _v5_connect(self) -> dict[str, Any]:
        endpoint = self._endpoint
        if endpoint.protocol != "5":
            return {}
        properties = Properties(PacketTypes.CONNECT)
        if endpoint.persistent:
            properties.SessionExpiryInterval = endpoint.session_expiry_s
        properties.ReceiveMaximum = endpoint.receive_maximum
        if endpoint.max_packet_bytes is not None:
            properties.MaximumPacketSize = endpoint.max_packet_bytes
        return {"clean_start": not endpoint.persistent, "properties": properties}

    def _on_refused(self, code: int, server: str) -> None:
        self.refused_code = code = code if self._endpoint.protocol == "5" else _CONNACK_3.get(code, code)
        hint = f"; {_HINTS[code]}" if code in _HINTS else ""
        elsewhere = f": {server}" if server else ""
        why = reason_name(code).capitalize() or f"reason code 0x{code:02x}"
        self._refused = f"{self._endpoint.place} refused the connection: {why}{elsewhere}{hint}"

    def _on_connect(self, _client: Any, _data: Any, flags: Any, _reason: Any, properties: Any) -> None:
        self.accepted = True
        self._receive_maximum = getattr(properties, "ReceiveMaximum", _NO_MAXIMUM)
        most_aliases = getattr(properties, "TopicAliasMaximum", 0) if self._aliases else 0
        self.bulk.accepted(self._receive_maximum, most_aliases)
        self._share_places()
        self._listener.accepted(
            Connack(
                bool(flags.session_present),
                getattr(properties, "MaximumPacketSize", None),
                self._receive_maximum,
                bool(getattr(properties, "RetainAvailable", 1)),
                getattr(properties, "SessionExpiryInterval", None),
                self._endpoint.protocol == "5"
                and bool(getattr(properties, "SubscriptionIdentifierAvailable", 1)),
                getattr(properties, "TopicAliasMaximum", 0),
            )
        )

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            # Not valid MQTT, but lost if it were refused: keep it under a name that can be stored.
            topic = message._topic.decode("utf-8", "backslashreplace")
        exactly_once = message.qos == _QOS_2
        self._brings_qos_2 |= exactly_once
        self._inbox.append(
            Message(
                topic,
                bytes(message.payload),
                message.qos,
                message.retain,
                message.dup or (exactly_once and self._handshakes.is_repeated(message.mid)),
                message.mid,
                self._epoch,
                self._now_ms(),
                *Kept.of(message.properties),
            )
        )

    def _on_publish(self, _client: Any, _data: Any, packet_id: int, _reason: Any, _properties: Any) -> None:
        self._listener.published(packet_id, self._client.puback_code)

    def _on_suback(self, packet_id: int, codes: Sequence[int]) -> None:
        self._listener.subscribed(dict(zip(self._asked.pop(packet_id, []), codes, strict=False)))

    def _on_pubrel(self, packet_id: int) -> None:
        self._handshakes.released(packet_id)
        self._listener.released(packet_id)

    def _on_unsubscribe(self, _client: Any, _data: Any, mid: int, _reasons: Any, _properties: Any) -> None:
        self._listener.unsubscribed(self._asked.pop(mid, []))

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        why = str(reason)
        if flags.is_disconnect_packet_from_server:
            self.farewell_code = self._client.farewell_code
            server, hint = self._client.farewell_server, _HINTS.get(self.farewell_code, "")
            why = reason_text(self.farewell_code) + (f": {server}" if server else "")
            why += f"; {hint}" if hint else ""
        if not self.closing and not self._refused:
            self.closed_by_broker = self.accepted
            self._refused = f"{self._endpoint.place} closed the connection: {why}"

    def _raise_refusal(self) -> None:
        if self._refused:
            raise BrokerError(self._refused)


def is_refusal(code: int) -> bool:
    """Return True if a reason code of MQTT 5, or a return code of a SUBACK of 3.1.1, is a failure."""
    return code >= _FAILURE


class _Client(paho.Client):
    """paho's client on a BufferedSocket, which leaves QoS 2 to its owner."""

    endpoint: Endpoint
    connection: BufferedSocket
    puback_code = 0
    """The reason code of the PUBACK that is being handled."""
    farewell_code = 0
    """Reason code of the broker's DISCONNECT."""
    farewell_server = ""
    """The server that it refers us to."""
    suback: Callable[[int, Sequence[int]], None]
    refused: Callable[[int, str], None]
    pubrel: Callable[[int], None]
    answered: Callable[[Sequence[int], int], None]
    """A PUBACK for a message that was sent in bulk has come."""

    @property
    def wire_bytes(self) -> int:
        connection = getattr(self, "connection", None)
        return 0 if connection is None else int(connection.wire_bytes)

    @property
    def between_packets(self) -> bool:
        """True if the next byte begins a packet."""
        return not self._in_packet["command"] and not self._in_packet["remaining_count"]

    def note_received(self) -> None:
        """The peer lives: paho's watch over the keepalive has not seen what was read past it."""
        name = "_last_bytes_received" if hasattr(self, "_last_bytes_received") else "_last_msg_in"
        setattr(self, name, time.monotonic())  # as paho 2.2 calls it, and as 2.1 does

    def excuse(self) -> None:
        """Let paho wait longer for the broker's answer: nobody has read what came."""
        self.note_received()
        self._ping_t = 0

    def _mid_generate(self) -> int:
        """Leave the packet ids from FIRST_ID on to messages that are sent in bulk."""
        if len(self._out_messages) >= FIRST_ID - 1:
            raise BrokerError(
                f"{len(self._out_messages)} messages wait for an answer: there is no packet id left"
            )
        while True:
            self._last_mid = self._last_mid + 1 if self._last_mid < FIRST_ID - 1 else 1
            if self._last_mid not in self._out_messages:
                return self._last_mid

    def take_at_once(self, messages: int) -> None:
        """Let no more messages at QoS 1 be unanswered. paho's own setting has to be made before the
        connection, and the broker says it after."""
        self._max_inflight_messages = messages

    @property
    def full(self) -> bool:
        return 0 < self._max_inflight_messages <= self._inflight_messages

    def _update_inflight(self) -> MQTTErrorCode:
        if len(self._out_messages) <= self._inflight_messages:
            return MQTTErrorCode.MQTT_ERR_SUCCESS  # nothing is queued; paho would look at each
        return super()._update_inflight()

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        """paho refuses a packet whose code the standard does not list for a PUBACK; Mosquitto sends one, 0x95
        for a message over its size limit. So the code is taken out here, and paho sees a plain PUBACK."""
        packet = self._in_packet["packet"]
        self.puback_code = packet[2] if len(packet) > 2 else 0
        packet_id = int.from_bytes(packet[:2], "big")
        if cmd == "PUBACK" and packet_id >= FIRST_ID:
            self.answered([packet_id], self.puback_code)
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        self._in_packet["packet"] = packet[:2]
        return super()._handle_pubackcomp(cmd)

    def _handle_connack(self) -> MQTTErrorCode:
        """paho gives up without a word on codes that the standard does not list for a CONNACK, and on some of
        MQTT 3.1.1. So a refusal never reaches it."""
        packet = bytes(self._in_packet["packet"])
        if len(packet) < 2 or packet[1] == 0:
            return super()._handle_connack()
        self.refused(packet[1], _server_reference(packet[2:]))
        return MQTTErrorCode.MQTT_ERR_CONN_REFUSED

    def _handle_suback(self) -> None:
        """paho cannot read a SUBACK with a code that the standard does not list for it."""
        packet = bytes(self._in_packet["packet"])
        if len(packet) < 3:
            raise BrokerError("the broker sent a SUBACK that is too short")
        properties = variable_integers.read(packet, 2) if self._protocol == paho.MQTTv5 else (0, 2)
        if properties is None:
            raise BrokerError("the broker sent a packet with a malformed length")
        codes_at = sum(properties)
        self.suback(int.from_bytes(packet[:2], "big"), packet[codes_at:])

    def _handle_disconnect(self) -> None:
        """The same for DISCONNECT; the code is taken out here."""
        packet = self._in_packet["packet"]
        self.farewell_code = packet[0] if packet else 0
        self.farewell_server = _server_reference(bytes(packet[1:]), PacketTypes.DISCONNECT)
        self._in_packet["packet"] = bytearray()
        super()._handle_disconnect()

    def _handle_on_message(self, message: paho.MQTTMessage) -> None:
        """paho first looks the topic up among callbacks for filters. Nobody registers any here, and to search
        that empty tree took 9 % of a busy gateway's time."""
        self.on_message(self, None, message)  # type: ignore[misc] # the connection has set it

    def _handle_publish(self) -> MQTTErrorCode:
        """Hand a QoS 2 message on with its PUBLISH. paho would keep it in memory until the PUBREL, and a
        crash between the PUBREC that it sends at once and that PUBREL would lose it."""
        code = super()._handle_publish()
        while self._in_messages:
            self._handle_on_message(self._in_messages.popitem()[1])
        return code

    def _send_pubrec(self, _mid: int) -> MQTTErrorCode:
        """Send nothing: the owner does, after the commit."""
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_pubrel(self) -> MQTTErrorCode:
        """Hand it on, whatever the packet id: the broker has our PUBREC, so the message is on disk."""
        packet_id = bytes(self._in_packet["packet"][:2])
        if len(packet_id) < 2:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self.pubrel(int.from_bytes(packet_id, "big"))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _create_socket(self) -> Any:
        self.connection = BufferedSocket(open_transport(self.endpoint, CONNECT_TIMEOUT_S))
        return self.connection

    def close(self) -> None:
        """Close the socket, if there ever was one."""
        connection = getattr(self, "connection", None)
        if connection is not None:
            connection.close()


def _parts(filters: Sequence[Any]) -> list[Sequence[Any]]:
    return [filters[at : at + SUBSCRIBE_LIMIT] for at in range(0, len(filters), SUBSCRIBE_LIMIT)]


def _server_reference(properties: bytes, packet_type: int = PacketTypes.CONNACK) -> str:
    """Return the server that a CONNACK or DISCONNECT of MQTT 5 refers the client to; empty when it names
    none."""
    if not properties:
        return ""
    found = Properties(packet_type)
    try:
        found.unpack(properties)
    except (MQTTException, ValueError, IndexError, UnicodeDecodeError):
        return ""  # the reason code alone has to do
    return str(getattr(found, "ServerReference", ""))


def _check(code: int) -> None:
    if code > 0:
        raise BrokerError(paho.error_string(MQTTErrorCode(code)))


def _ignore(*_: Any) -> None:
    """Registering a write is the loop's business."""
