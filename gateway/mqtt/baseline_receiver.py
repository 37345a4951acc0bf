"""The yardstick of the benchmark: a paho receiver that does nothing but acknowledge."""

from __future__ import annotations

import threading
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion


def receive_all(host: str, port: int, client_id: str, messages: int) -> float:
    """Take `messages` queued QoS 1 messages with manual acks; returns the rate per second."""
    done = threading.Event()
    times: list[float] = []
    received = 0

    def take(client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        nonlocal received
        received += 1
        client.ack(message.mid, message.qos)
        if received in (1, messages):
            times.append(time.monotonic())
        if received == messages:
            done.set()

    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False, manual_ack=True
    )
    client.on_message = take
    client.connect(host, port)
    client.loop_start()
    done.wait(300)
    client.loop_stop()
    return messages / (times[-1] - times[0])
