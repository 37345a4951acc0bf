"""A device and a dashboard in a few lines of paho, independent of the gateway's own client."""

from __future__ import annotations

from collections.abc import Iterable

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.gateways import wait_until

HOST = "127.0.0.1"


def publish(
    port: int, messages: Iterable[tuple[str, str | bytes]], *, qos: int = 1, retain: bool = False
) -> None:
    """Publish and return once the broker has acknowledged all of it."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(100)
    client.connect(HOST, port)
    client.loop_start()
    try:
        sent = [client.publish(topic, payload, qos, retain) for topic, payload in messages]
        for info in sent:
            info.wait_for_publish(30)
            assert info.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


def settle(port: int) -> None:
    """Return once a Mosquitto that saves at once has saved whatever it acknowledged before this call.

    It acknowledges first and saves at the end of the same turn of its loop: a kill between the two loses
    messages, which no gateway can help.
    """
    publish(port, [("settle", b"")])


class Watcher:
    """Collects what is published on a filter, from before `with` returns until it ends."""

    def __init__(self, port: int, topic_filter: str) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self._port, self._filter = port, topic_filter
        self._subscribed = False
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _client, _data, message: self.messages.append(message)
        self._client.on_subscribe = self._on_subscribe

    def __enter__(self) -> Watcher:
        self._client.connect(HOST, self._port)
        self._client.subscribe(self._filter, qos=1)
        self._client.loop_start()
        wait_until(lambda: self._subscribed, "the watcher's subscription")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_subscribe(self, *_: object) -> None:
        self._subscribed = True
