"""How long a message takes to its aggregate on the local broker, and to the cloud broker (two Mosquittos).

Run it by hand: `python -m benchmarks.latency [--rates 100,1000,5000] [--seconds 5] [--against FOLDER]`. With
the root of another checkout, `--against` measures that one in the same run, for a ratio that means something.
Beside the load of 1,000 devices a probe goes out about every 60 ms, on a topic whose window has one reading.
Last comes a gateway to which nobody publishes: how often its threads wake up.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import paho.mqtt.client as paho
import psutil
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.programs import HOST, ROOT, running_broker, running_gateway
from gateway.core.own_topics import OwnTopics
from gateway.lab.load import connected, encode_publish
from gateway.wire.frame import decode_batch

TOPICS = OwnTopics("gateway", "latency")
DEVICES = 1000
WARM_UP_S = 2.0
PATIENCE_S = 30.0


class Found(NamedTuple):
    """Latencies in ms, and what the gateway took: processor, wake-ups of its threads, memory."""

    aggregates: list[float]
    cloud: list[float]
    processor: float
    switches_per_s: float
    resident_mib: float

    def __str__(self) -> str:
        cost = f"{self.processor:.0%} of a processor, {self.switches_per_s:.0f} switches/s"
        cost += f", {self.resident_mib:.0f} MiB resident"
        return f"aggregate {_percentiles(self.aggregates)}; cloud {_percentiles(self.cloud)}; {cost}"


def _percentiles(found: list[float]) -> str:
    if len(found) < 10:
        return "–"
    cuts = quantiles(found, n=100)
    return f"p50 {cuts[49]:.1f} p99 {cuts[98]:.1f} ms"


def measure(root: Path, rate: int, seconds: float) -> Found:
    """The gateway of a checkout at `rate` messages a second."""
    with ExitStack() as stack:
        local, cloud = (stack.enter_context(running_broker()).port for _ in range(2))
        gateway = stack.enter_context(_gateway(root, local, cloud))
        probes = Probes()
        for port in (local, cloud):
            stack.enter_context(_listening(port, TOPICS.status, probes.online))
        stack.enter_context(_listening(local, TOPICS.aggregates("probe") + "#", probes.aggregated))
        stack.enter_context(_listening(cloud, TOPICS.batch("+"), probes.arrived))
        for _ in (local, cloud):
            assert probes.is_up.acquire(timeout=PATIENCE_S), "the gateway does not come up"
        time.sleep(WARM_UP_S)
        before_s, before = sum(gateway.cpu_times()[:2]), _switches(gateway)
        started_s = time.monotonic()
        if rate:
            probes.publish(local, rate, seconds)
        else:
            time.sleep(seconds)
        elapsed_s = time.monotonic() - started_s
        processor = (sum(gateway.cpu_times()[:2]) - before_s) / elapsed_s
        switches_per_s = (_switches(gateway) - before) / elapsed_s
        resident_mib = gateway.memory_info().rss / 2**20
        time.sleep(0.5)
        return Found(probes.aggregates, probes.cloud, processor, switches_per_s, resident_mib)


class Probes:
    """Publishes the load and numbered probes, and notes how long each took."""

    def __init__(self) -> None:
        self.aggregates: list[float] = []
        self.cloud: list[float] = []
        self.is_up = threading.Semaphore(0)
        self._sent_s: dict[int, float] = {}

    def online(self, _payload: bytes) -> None:
        self.is_up.release()

    def publish(self, port: int, rate: int, seconds: float) -> None:
        """As evenly as the clock allows."""
        with connected(HOST, port, "load", clean=True) as sock:
            sock.settimeout(None)
            threading.Thread(target=_drain, args=(sock,), daemon=True).start()
            started_s, sent, next_probe_s = time.monotonic(), 0, 0.0
            while (now_s := time.monotonic() - started_s) < seconds:
                out = b""
                while sent < now_s * rate:
                    sent += 1
                    out += encode_publish(f"load/d{sent % DEVICES}", _reading(sent), sent % 60_000 + 1)
                if now_s >= next_probe_s:
                    number = len(self._sent_s)
                    next_probe_s = now_s + 0.05 + 0.007 * (number % 4)
                    out += encode_publish("probe/x", b'{"value": %d}' % number, 60_001 + number % 5000)
                    self._sent_s[number] = time.monotonic()
                if out:
                    sock.sendall(out)
                time.sleep(0.001)

    def aggregated(self, payload: bytes) -> None:
        self._note(self.aggregates, int(json.loads(payload)["result"]["last"]))

    def arrived(self, payload: bytes) -> None:
        for event in decode_batch(payload).events:
            if event.stream == "probe/x":
                self._note(self.cloud, int(json.loads(event.payload)["value"]))

    def _note(self, found: list[float], number: int) -> None:
        found.append(1000 * (time.monotonic() - self._sent_s[number]))


def _reading(number: int) -> bytes:
    return json.dumps({"value": 20 + number % 97 / 10, "unit": "C", "n": number}).encode()


def _drain(sock: Any) -> None:
    try:
        while sock.recv(65536):
            pass
    except OSError:
        pass  # closed


def _gateway(root: Path, local: int, cloud: int) -> AbstractContextManager[psutil.Process]:
    window = {"type": "tumbling", "size": "1m"}
    config = {
        "gateway": {"id": TOPICS.gateway_id, "data_dir": "data"},
        "local": {"url": f"mqtt://{HOST}:{local}"},
        "cloud": {"url": f"mqtt://{HOST}:{cloud}"},
        "routes": [{"name": "load", "topic": "load/{device}"}, {"name": "probe", "topic": "probe/{device}"}],
        "windows": [
            {"name": "load", "route": "load", "field": "value", "key": "{device}", "window": window},
            {"name": "probe", "route": "probe", "field": "value", "window": {"type": "count", "count": 1}},
        ],
    }
    return running_gateway(root, config)


@contextmanager
def _listening(port: int, topic_filter: str, take: Callable[[bytes], None]) -> Iterator[None]:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: take(bytes(message.payload))
    client.connect(HOST, port)
    client.subscribe(topic_filter, 0)
    client.loop_start()
    yield
    client.loop_stop()


def _switches(process: psutil.Process) -> int:
    """Of all threads, those that they themselves brought about by waiting."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="100,1000,5000")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--against", type=Path, help="the root of another checkout")
    options = parser.parse_args()
    roots = [ROOT] if options.against is None else [options.against.resolve(), ROOT]
    for rate in [*map(int, options.rates.split(",")), 0]:
        for root in roots:
            print(f"{rate:>5}/s {root.name:>12}: {measure(root, rate, options.seconds)}", flush=True)


if __name__ == "__main__":
    main()
