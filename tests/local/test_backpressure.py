"""Backpressure on a running gateway: what devices are told, and what happens to their messages."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port
from tests.support.publishing import Watcher, publish

ROUTES = [
    {"name": "normal", "topic": "normal/{device}"},
    {"name": "low", "topic": "low/{device}", "priority": "low"},
]


def test_a_full_buffer_tells_devices_rejects_low_priority_and_recovers(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud_port = mosquitto(["max_queued_messages 0"]), free_port()
    config = gateway_config(
        tmp_path,
        local.url,
        f"mqtt://127.0.0.1:{cloud_port}",
        buffer={"max_size": "8MiB", "checkpoint_interval": "250ms", "keep_synced": "0s"},
        routes=ROUTES,
        windows=[],
    )
    with (
        Watcher(local.port, "gateway/g1/backpressure") as device,
        GatewayProcess(config) as gateway,
    ):
        gateway.wait_ready()
        wait_until(lambda: device.messages, "the signal of a gateway at ease")
        assert json.loads(device.messages[0].payload) == {"action": "NONE", "reasons": []}
        sent, chance = 0, random.Random(1)
        rejected = 'gateway_messages_rejected_total{reason="overload"}'
        while gateway.metric('gateway_backpressure{action="REJECT_LOW_PRIORITY"}') == 0:
            publish(local.port, [(f"normal/{n % 5}", chance.randbytes(900)) for n in range(500)])
            sent += 500
            assert sent < 50_000
        publish(local.port, [("low/a", "lost")])
        wait_until(lambda: gateway.metric(rejected) == 1, "the rejection of low priority")
        wait_until(lambda: b"REJECT" in device.messages[-1].payload, "the signal")
        told = json.loads(device.messages[-1].payload)
        assert (told["action"], told["priority_threshold"]) == ("REJECT_LOW_PRIORITY", "low")
        assert "buffer" in told["reasons"]

        mosquitto(["max_queued_messages 0"], port=cloud_port)
        # On a busy machine SLOW_DOWN may stay.
        wait_until(
            lambda: "priority_threshold" not in json.loads(device.messages[-1].payload), "the end of it"
        )
        publish(local.port, [("low/a", "kept")])
        kept = 'gateway_messages_total{outcome="buffered"}'
        wait_until(lambda: gateway.metric(kept) == sent + 1, "low priority is taken again")
        assert gateway.stop() == 0
        found = gateway.audit()
        assert not found.problems
        assert found.messages == {"buffered": sent + 1, "rejected": 1}
