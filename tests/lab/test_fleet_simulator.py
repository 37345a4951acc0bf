"""The simulated fleet: what it publishes, and that `gateway simulate` gets it to a broker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from itertools import islice, pairwise
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from gateway.cli.simulate import Preset
from gateway.lab.device_payloads import PRESETS
from gateway.lab.fleet_simulator import FleetSpec, Outage, Publication, simulate
from tests.conftest import MosquittoFactory
from tests.support.brokers import Broker
from tests.support.ports import free_port

START_MS = 1_763_900_000_000
WAIT_S = 30.0


def published(**parameters: Any) -> list[Publication]:
    return list(
        simulate(FleetSpec(**{"devices": 10, "rate_per_s": 100.0, "count": 1000, **parameters}), START_MS)
    )


@given(
    st.builds(
        FleetSpec,
        devices=st.integers(1, 20),
        rate_per_s=st.sampled_from([0.5, 10.0, 333.3, 5000.0]),
        preset=st.sampled_from(sorted(PRESETS)),
        count=st.integers(0, 300),
        skew_ms=st.integers(0, 5000),
        disorder=st.floats(0, 1),
        late=st.floats(0, 1),
        duplicates=st.floats(0, 1),
        outage=st.none() | st.builds(Outage, st.integers(0, 3000), st.integers(0, 3000)),
        seed=st.integers(0, 5),
    )
)
def test_any_fleet_publishes_every_reading_in_the_order_of_sending(spec: FleetSpec) -> None:
    sequence = list(simulate(spec, START_MS))
    times = [publication.send_at_ms for publication in sequence]
    assert times == sorted(times)
    assert all(time_ms >= START_MS for time_ms in times)
    assert spec.count is not None
    assert spec.count <= len(sequence) <= 2 * spec.count
    assert sequence == list(simulate(spec, START_MS))


def test_an_endless_fleet_goes_on() -> None:
    endless = simulate(FleetSpec(count=None), START_MS)
    assert len(list(islice(endless, 5000))) == 5000


def test_devices_take_turns_at_the_given_rate() -> None:
    sequence = published()
    assert Counter(Counter(publication.topic for publication in sequence).values()) == {100: 10}
    assert [publication.send_at_ms for publication in sequence] == [START_MS + 10 * n for n in range(1000)]


def test_values_vary_slowly_around_each_devices_own_level() -> None:
    by_device: dict[str, list[float]] = {}
    for publication in published():
        value = json.loads(publication.payload)["BME280"]["Temperature"]
        by_device.setdefault(publication.topic, []).append(value)
    for values in by_device.values():
        steps = [abs(later - earlier) for earlier, later in pairwise(values)]
        assert max(steps) < 1.5
        assert len(set(values)) > 3


def test_a_skewed_clock_writes_its_own_time() -> None:
    sequence = published(preset="zigbee2mqtt", skew_ms=2000)
    offsets: dict[str, set[int]] = {}
    for publication in sequence:
        offset_ms = publication.event_time_ms - publication.send_at_ms
        offsets.setdefault(publication.topic, set()).add(offset_ms)
        assert abs(offset_ms) <= 2001
    assert all(max(each) - min(each) <= 1 for each in offsets.values())
    assert len({min(each) for each in offsets.values()}) > 5


def test_the_payload_carries_the_event_time() -> None:
    for publication in published(preset="zigbee2mqtt", skew_ms=2000, count=20):
        moment = datetime.fromisoformat(json.loads(publication.payload)["last_seen"])
        assert round(moment.timestamp() * 1000) == publication.event_time_ms
    for publication in published(preset="tasmota", skew_ms=2000, count=20):
        moment = datetime.fromisoformat(json.loads(publication.payload)["Time"] + "+00:00")
        assert round(moment.timestamp() * 1000) == publication.event_time_ms


def test_a_plain_payload_is_a_number() -> None:
    assert published(preset="plain", count=1)[0].topic == "sensors/sensor-000/temperature"
    assert all(float(publication.payload) for publication in published(preset="plain", count=20))


def test_a_fraction_is_out_of_order_late_or_twice() -> None:
    plain = published(preset="zigbee2mqtt", count=20_000)

    def delays(**parameters: float) -> list[int]:
        sequence = published(preset="zigbee2mqtt", count=20_000, **parameters)
        return [each.send_at_ms - each.event_time_ms for each in sequence]

    disordered = [delay for delay in delays(disorder=0.1) if delay]
    assert 1800 < len(disordered) < 2200
    assert max(disordered) <= 2000
    late = [delay for delay in delays(late=0.01) if delay]
    assert 150 < len(late) < 250
    assert 10_000 < max(late) <= 60_000
    assert 1800 < len(delays(duplicates=0.1)) - len(plain) < 2200


def test_an_outage_holds_everything_back_and_lets_it_go_at_once() -> None:
    sequence = published(preset="zigbee2mqtt", outage=Outage(2000, 3000))
    silent = [each for each in sequence if START_MS + 2000 <= each.send_at_ms < START_MS + 5000]
    burst = [each for each in sequence if each.send_at_ms == START_MS + 5000]
    assert silent == []
    assert [each.event_time_ms for each in burst] == [START_MS + 10 * n for n in range(200, 501)]


# --- with a broker


class Listener:
    """Counts what a broker delivers on a filter."""

    def __init__(self, port: int, topic_filter: str) -> None:
        self.payloads: Counter[tuple[str, bytes]] = Counter()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self._client.on_connect = lambda client, *_: client.subscribe(topic_filter, qos=1)
        self._client.on_message = self._count
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _count(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.payloads[message.topic, bytes(message.payload)] += 1

    def wait_for(self, distinct: int) -> None:
        deadline = time.monotonic() + WAIT_S
        while len(self.payloads) < distinct:
            assert time.monotonic() < deadline, f"{len(self.payloads)} of {distinct} came"
            time.sleep(0.02)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def start(port: int, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gateway", "simulate", "--url", f"mqtt://127.0.0.1:{port}", "--json"]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    stdout, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, stderr
    result: dict[str, Any] = json.loads(stdout)
    return result


@pytest.fixture
def broker(mosquitto: MosquittoFactory) -> Broker:
    return mosquitto()


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_everything_published_is_acknowledged_and_arrives(broker: Broker, protocol: str) -> None:
    listener = Listener(broker.port, "zigbee2mqtt/#")
    options = ("--count", "500", "--rate", "2000", "--preset", "zigbee2mqtt", "--protocol", protocol)
    result = finish(start(broker.port, *options))
    listener.wait_for(500)
    listener.close()
    assert (result["published"], result["acknowledged"], result["unanswered"]) == (500, 500, 0)


def test_seconds_times_rate_is_the_count(broker: Broker) -> None:
    assert finish(start(broker.port, "--seconds", "0.5", "--rate", "100"))["published"] == 50


def test_a_broker_that_restarts_gets_what_it_had_not_acknowledged(mosquitto: MosquittoFactory) -> None:
    broker = mosquitto()
    process = start(broker.port, "--count", "2000", "--rate", "1000", "--preset", "zigbee2mqtt")
    listener = Listener(broker.port, "zigbee2mqtt/#")
    listener.wait_for(200)
    listener.close()
    broker.kill()
    broker.start()
    result = finish(process)
    assert (result["published"], result["acknowledged"]) == (2000, 2000)


def test_ctrl_c_waits_for_the_last_acknowledgements(broker: Broker) -> None:
    listener = Listener(broker.port, "tele/#")
    process = start(broker.port, "--rate", "500")
    listener.wait_for(20)
    process.send_signal(signal.SIGINT)
    result = finish(process)
    listener.close()
    assert result["published"] == result["acknowledged"] > 0


@pytest.mark.parametrize(
    "options",
    [
        ("--skew", "2"),
        ("--outage", "10s"),
        ("--outage", "10s+x"),
        ("--disorder", "1.5"),
        ("--preset", "nothing"),
        ("--count", "5", "--seconds", "5"),
        ("--devices", "0"),
    ],
)
def test_a_wrong_option_exits_with_2_and_names_itself(options: tuple[str, ...]) -> None:
    process = start(free_port(), *options)
    _, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert options[0] in stderr


def test_each_layout_of_devices_can_be_chosen() -> None:
    assert {preset.value for preset in Preset} == PRESETS.keys()


def test_a_sparkplug_node_is_born_before_it_speaks_and_counts_its_messages() -> None:
    pytest.importorskip("google.protobuf")
    sequence = published(preset="sparkplug", devices=2, count=600)
    for node in ("sensor-000", "sensor-001"):
        topics = [each.topic for each in sequence if each.topic.endswith(node)]
        assert topics == [f"spBv1.0/fleet/NBIRTH/{node}"] + [f"spBv1.0/fleet/NDATA/{node}"] * 299
