"""Payloads in the shapes that real systems send, each read with a route of a few lines.

The values and names are made up; the shapes and their quirks are those of Tasmota, Zigbee2MQTT, Shelly,
ESPHome, Sparkplug B, LoRaWAN servers, Victron, Ruuvi, rtl_433, Z-Wave JS and SenML.
"""

import json
from typing import Any

import pytest

from gateway.config import parse_config
from gateway.decode.routes import RouteTable
from tests.support.decoding import decode_with
from tests.support.places import TESTS

ARRIVAL_MS = 1_790_000_000_000
SAMPLES = json.loads((TESTS / "payloads" / "samples.json").read_text("utf-8"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["name"])
def test_a_payload_of_the_field_is_read_by_a_short_route(sample: dict[str, Any]) -> None:
    route = {"name": "field", "timestamp": "trusted", **sample["route"]}
    config = parse_config(json.dumps({"gateway": {"id": "g"}, "routes": [route]}))
    table = RouteTable(config.route_specs())
    payload = bytes.fromhex(sample["payload_hex"]) if "payload_hex" in sample else sample["payload"].encode()

    decoded = decode_with(table, sample["topic"], payload, ARRIVAL_MS)

    assert [dict(taken.fields) for taken in decoded.samples] == sample["samples"]
    assert decoded.event_time_ms == (sample["event_time_ms"] or ARRIVAL_MS)
    assert set(decoded.misses) == set(sample.get("misses", []))
    assert decoded.problem == sample.get("problem")
