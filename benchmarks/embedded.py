"""How many messages a second the gateway takes from its embedded broker: amqtt in its process, or Mosquitto.

Run it by hand: `python -m benchmarks.embedded [--messages 20000] [--rounds 3] [--against FOLDER]`. With the
root of another checkout, `--against` measures that one in the same run, for a ratio that means something.
"""

from __future__ import annotations

import argparse
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.programs import HOST, ROOT, running_gateway
from gateway.host.ports import free_port
from gateway.lab.load import publish_all

DEVICES = 1000
_PATIENCE_S = 120.0
_BUFFERED = 'gateway_messages_total{outcome="buffered"}'


def measure(root: Path, broker: str, messages: int) -> float:
    """Messages per second from the first publish until all are in the buffer."""
    with _gateway(root, broker) as (port, http):
        while _buffered(http) < 1:  # it has not subscribed yet
            publish_all(HOST, port, _fleet(1))
            time.sleep(0.1)
        before = int(_buffered(http))
        began_s = time.monotonic()
        publish_all(HOST, port, _fleet(messages))
        _wait(http, before + messages)
        return messages / (time.monotonic() - began_s)


def _fleet(messages: int) -> Iterator[tuple[str, bytes]]:
    for number in range(messages):
        yield f"bench/d{number % DEVICES}", b'{"value": %d, "unit": "C", "n": %d}' % (number % 97, number)


def _wait(http: int, count: int) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while _buffered(http) < count:
        assert time.monotonic() < deadline_s, f"not {count} messages in {_PATIENCE_S:g} s"
        time.sleep(0.02)


def _buffered(http: int) -> float:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{http}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return -1.0  # it is still starting
    return next((float(line.split()[-1]) for line in lines if line.startswith(_BUFFERED)), 0.0)


@contextmanager
def _gateway(root: Path, broker: str) -> Iterator[tuple[int, int]]:
    port, http = free_port(HOST), free_port(HOST)
    config = {
        "gateway": {"id": "bench", "data_dir": "data"},
        "local": {"url": "embedded", "broker": broker, "listen": f"{HOST}:{port}"},
        "http": {"listen": f"{HOST}:{http}"},
        "routes": [{"name": "bench", "topic": "bench/{device}"}],
        "windows": [
            {
                "name": "bench",
                "route": "bench",
                "field": "value",
                "key": "{device}",
                "window": {"type": "tumbling", "size": "1m"},
            }
        ],
    }
    with running_gateway(root, config):
        _wait(http, 0)
        yield port, http


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--brokers", default="amqtt,mosquitto")
    parser.add_argument("--against", type=Path, help="the root of another checkout")
    options = parser.parse_args()
    roots = [ROOT] if options.against is None else [options.against.resolve(), ROOT]
    found = defaultdict[str, list[float]](list)
    for _ in range(options.rounds):
        for root in roots:
            for broker in options.brokers.split(","):
                rate = measure(root, broker, options.messages)
                found[f"{root.name:>12} {broker}"].append(rate)
                print(f"{root.name:>12} {broker:<10} {rate:>8,.0f} messages/s", flush=True)
    print("medians")
    for name, rates in found.items():
        print(
            f"{name:<24} {median(rates):>8,.0f} messages/s  ({', '.join(f'{rate:,.0f}' for rate in rates)})"
        )


if __name__ == "__main__":
    main()
