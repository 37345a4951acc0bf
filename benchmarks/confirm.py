"""Cost of `cloud.confirm: receiver` in the drain of a backlog, as ratios to `confirm: puback`.

Run `.venv/bin/python -m benchmarks.confirm [--events 300000] [--rounds 3]`. Gateway, Mosquitto and
`gateway receive` are processes of their own on this machine; the two settings take turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from benchmarks.bridge import PATIENCE_S, backlog, fill, mosquitto
from gateway.buffer.store import NewEvent
from tests.support.buffers import reading
from tests.support.gateways import GatewayProcess, gateway_config, wait_until


def drain(folder: Path, events: list[NewEvent], confirm: str) -> tuple[float, float]:
    """Events per second, from the first that is at the cloud broker to the last; and the processor time of
    gateway and receiver in µs for each event, which tells more on a busy machine."""
    folder.mkdir()
    with mosquitto(folder / "local") as local, mosquitto(folder / "cloud") as cloud:
        audit = {"audit": "5s", "confirm": confirm}
        config = gateway_config(folder, local.url, cloud.url, cloud={"url": cloud.url, **audit})
        process = GatewayProcess(config)
        process.buffer_path.parent.mkdir(parents=True, exist_ok=True)
        fill(process.buffer_path, events)
        command = [sys.executable, "-m", "gateway", "receive", "--url", cloud.url, "--output"]
        receiver = subprocess.Popen([*command, str(folder / "received.ndjson")], stderr=subprocess.DEVNULL)
        try:
            time.sleep(3)  # it subscribes
            with process:
                began_s = ended_s = 0.0

                def drained() -> bool:
                    nonlocal began_s, ended_s
                    with reading(process.buffer_path) as reader:
                        found = reader.counters()
                    synced = found.get(("status", "SYNCED"), 0) + found.get(("evicted", "synced"), 0)
                    ended_s = time.monotonic()
                    began_s = began_s or (ended_s if synced else 0.0)
                    return synced >= len(events)

                wait_until(drained, "the drain", PATIENCE_S)
                spent = [psutil.Process(pid).cpu_times() for pid in (process.pid, receiver.pid)]
                cpu_s = sum(times.user + times.system for times in spent)
                return len(events) / (ended_s - began_s), 1e6 * cpu_s / len(events)
        finally:
            receiver.kill()
            receiver.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    events = backlog(given.events)
    found: dict[str, list[tuple[float, float]]] = {"puback": [], "receiver": []}
    with tempfile.TemporaryDirectory() as name:
        for number in range(given.rounds):
            for confirm, results in found.items():
                results.append(drain(Path(name) / f"{confirm}-{number}", events, confirm))
                rate, cpu_us = results[-1]
                print(f"{confirm:10} {rate:10,.0f}/s {cpu_us:6.1f} µs", flush=True)
    for what, at in (("rate", 0), ("processor time", 1)):
        receiver, puback = (median(each[at] for each in found[name]) for name in ("receiver", "puback"))
        print(f"{what}, receiver / puback, medians: {receiver / puback:.2f}")


if __name__ == "__main__":
    main()
