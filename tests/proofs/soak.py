"""Many devices, three windows, an outage of the cloud in the middle, real brokers, for as long as wished.

Run `.venv/bin/python -m tests.proofs.soak --rate 5000 --minutes 60 --outage 20 --svg docs/soak.svg`. It fails
when a reading is lost or comes twice. The brokers, the fleet, the receiver and the gateway are processes of
their own and share the machine.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import orjson
import psutil

from benchmarks.outage_plot import Line, Panel, drawn
from gateway.buffer.proof.balance import Audit
from gateway.core.units import parse_size_bytes
from tests.proofs.soak_fleet import Fleet, publishing_fleet
from tests.support.broker_kinds import best_broker_kind
from tests.support.brokers import Broker, BrokerSetup, make_broker
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.memory_group import MemoryGroup, memory_group
from tests.support.ports import free_port
from tests.support.publishing import Watcher

BROKER_LINES = (
    "max_queued_messages 10000000",
    "max_queued_bytes 4294967296",
    "max_inflight_messages 4000",
    "set_tcp_nodelay true",
)
PATIENCE_S = 3600.0
READINGS_PER_AGGREGATE = 50
ROUTE = {
    "name": "sensors",
    "topic": "sensors/{hall}/{device}",
    "timestamp_path": "t",
    "timestamp_format": "unix_ms",
    "timestamp": "trusted",
}
WINDOWS = [
    {"name": "minute", "key": "{device}", "window": {"type": "tumbling", "size": "1m"}},
    {"name": "hall", "key": "{hall}", "window": {"type": "hopping", "size": "5m", "slide": "1m"}},
    # Its result says when the reading was published that completed it: that is what latency is measured with.
    {
        "name": "fifty",
        "key": "{device}",
        "field": "t",
        "window": {"type": "count", "count": READINGS_PER_AGGREGATE},
    },
]


class Plan(NamedTuple):
    rate_per_s: int
    seconds: float
    outage_s: float
    devices: int = 1000
    sample_every_s: float = 1.0


class Sample(NamedTuple):
    """What was seen at one moment. `pending` waits for the cloud, `behind_s` is how late the fleet is."""

    seconds: float
    memory_bytes: int
    pending: int
    published: int
    behind_s: float


class Result(NamedTuple):
    """What came of it. `arrivals` counts per reading how often it is in the receiver's file, at most 255."""

    plan: Plan
    published: int
    fleet_s: float
    drained_s: float
    samples: list[Sample]
    latencies_ms: list[float]
    audit: Audit
    arrivals: bytearray
    events_received: int
    peak_charged_bytes: int

    @property
    def problems(self) -> list[str]:
        """What must not be."""
        buffered, lost = self.audit.messages.get("buffered", 0), self.arrivals.count(0)
        found = list(self.audit.problems)
        if buffered != self.published:
            found.append(f"{self.published} published, {buffered} buffered")
        if lost or self.arrivals.count(1) != self.published:
            found.append(f"{lost} readings lost, {self.published - lost - self.arrivals.count(1)} twice")
        if self.events_received != sum(self.audit.appended.values()):
            found.append(f"{self.events_received} events received of {sum(self.audit.appended.values())}")
        return found


class Soak:
    """Everything that runs: brokers, receiver, gateway, and a dashboard that takes the time."""

    def __init__(self, folder: Path, local: Broker, cloud: Broker, inside: tuple[str, ...] = ()) -> None:
        self._local, self._cloud = local, cloud
        windows = [{"route": "sensors", "field": "v", "plugin": "stats"} | window for window in WINDOWS]
        config = gateway_config(folder, local.url, cloud.url, routes=[ROUTE], windows=windows)
        self.gateway = GatewayProcess(config, inside)
        self._output = folder / "received.ndjson"
        self._report = folder / "receiver.json"
        self._samples: list[Sample] = []
        self._dashboard = Watcher(local.port, "gateway/g1/aggregates/fifty/#")
        self.latencies_ms: list[float] = []
        self._dashboard._client.on_message = lambda _c, _d, message: self._note_latency(
            bytes(message.payload)
        )

    def live_through(self, plan: Plan, group: MemoryGroup | None = None) -> Result:
        """Publish, break, mend, drain, stop, count."""
        with ExitStack() as cleanup:
            receiver = cleanup.enter_context(self._receiving())
            cleanup.enter_context(self.gateway)
            self.gateway.wait_ready()
            cleanup.enter_context(self._dashboard)
            fleet = cleanup.enter_context(
                publishing_fleet(self._local.port, plan.devices, plan.rate_per_s, plan.seconds)
            )
            started_s = time.monotonic()
            lull_s = (plan.seconds - plan.outage_s) / 2
            self._watch(plan, fleet, started_s, lambda: time.monotonic() - started_s > lull_s)
            self._cloud.stop()
            self._watch(plan, fleet, started_s, lambda: time.monotonic() - started_s > lull_s + plan.outage_s)
            self._cloud.start()
            self._watch(plan, fleet, started_s, lambda: not fleet.running)
            fleet_s, published = time.monotonic() - started_s, fleet.acknowledged
            self._watch(plan, fleet, started_s, lambda: self._taken_in() == published and not self._waiting())
            drained_s = time.monotonic() - started_s
            assert self.gateway.stop() == 0, self.gateway.log()
            found = self.gateway.audit()
            events = sum(found.appended.values())
            wait_until(
                lambda: self._received_lines() >= events, f"{events} events at the receiver", PATIENCE_S
            )
            receiver.terminate()
            assert receiver.wait(PATIENCE_S) == 0, self._report.read_text()
        arrivals, received = self._arrivals(published)
        peak = group.peak_bytes() if group else 0
        return Result(
            *(plan, published, fleet_s, drained_s, self._samples, sorted(self.latencies_ms)),
            *(found, arrivals, received, peak),
        )

    def _note_latency(self, payload: bytes) -> None:
        self.latencies_ms.append(time.time() * 1000 - orjson.loads(payload)["result"]["max"])

    @contextmanager
    def _receiving(self) -> Iterator[subprocess.Popen[bytes]]:
        command = ["receive", "--url", self._cloud.url, "--output", str(self._output), "--json"]
        with self._report.open("wb") as report:
            process = subprocess.Popen(
                [sys.executable, "-m", "gateway", *command], stdout=report, stderr=report
            )
        try:
            wait_until(lambda: "subscribed to" in self._report.read_text(), "the receiver")
            yield process
        finally:
            process.kill()
            process.wait()

    def _watch(self, plan: Plan, fleet: Fleet, started_s: float, until: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + plan.seconds + PATIENCE_S
        gateway = psutil.Process(self.gateway.pid)
        while not until():
            assert time.monotonic() < deadline_s, f"gave up:\n{self.gateway.log()}"
            self._samples.append(
                Sample(
                    time.monotonic() - started_s,
                    gateway.memory_info().rss,
                    self._waiting(),
                    fleet.acknowledged,
                    fleet.behind_s,
                )
            )
            time.sleep(plan.sample_every_s)

    def _waiting(self) -> int:
        names = (f'gateway_buffer_events{{status="{status}"}}' for status in ("pending", "syncing"))
        return sum(int(self.gateway.metric(name)) for name in names)

    def _taken_in(self) -> int:
        return int(self.gateway.metric('gateway_messages_total{outcome="buffered"}'))

    def _received_lines(self) -> int:
        if not self._output.exists():
            return 0
        with self._output.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))

    def _arrivals(self, published: int) -> tuple[bytearray, int]:
        arrivals, lines = bytearray(published), 0
        with self._output.open("rb") as file:
            for line in file:
                lines += 1
                event = orjson.loads(line)
                if event["kind"] == "raw":
                    number = _reading(event)["n"]
                    arrivals[number] = min(255, arrivals[number] + 1)
        return arrivals, lines


def _reading(event: dict[str, object]) -> dict[str, int]:
    payload = event["payload"]
    reading: dict[str, int] = payload if isinstance(payload, dict) else orjson.loads(str(payload))
    return reading


def soak(folder: Path, local: Broker, cloud: Broker, plan: Plan, memory_bytes: int | None = None) -> Result:
    """One run; `memory_bytes` limits the gateway with a control group. Fails when it was killed for it."""
    if memory_bytes is None:
        return Soak(folder, local, cloud).live_through(plan)
    with memory_group(memory_bytes) as group:
        result = Soak(folder, local, cloud, group.inside).live_through(plan, group)
        assert group.kills() == 0
        return result


def summary(result: Result) -> str:
    plan, samples, latencies = result.plan, result.samples, result.latencies_ms
    megabytes = [sample.memory_bytes / 1e6 for sample in samples]
    third = len(megabytes) // 3 or 1
    return "\n".join(
        [
            f"planned     {plan.rate_per_s:,} msg/s for {plan.seconds:,.0f} s from {plan.devices:,} devices,"
            f" the cloud away for {plan.outage_s:,.0f} s in the middle",
            f"published   {result.published:,} in {result.fleet_s:,.0f} s"
            f" ({result.published / result.fleet_s:,.0f}/s;"
            f" {max(s.behind_s for s in samples):.1f} s late at most)",
            f"buffered    {result.audit.messages}, {sum(result.audit.appended.values()):,} events",
            f"received    {result.events_received:,} events, {result.arrivals.count(1):,} readings once,"
            f" {result.arrivals.count(0):,} never",
            f"drained     {result.drained_s - result.fleet_s:,.0f} s after the fleet's end,"
            f" {max(s.pending for s in samples):,} waited at most",
            f"memory      {megabytes[third]:.0f} MB after a third, {max(megabytes):.0f} MB at most,"
            f" {megabytes[-1]:.0f} MB at the end"
            + (
                f"; charged to the group {result.peak_charged_bytes / 1e6:.0f} MB at most"
                if result.peak_charged_bytes
                else ""
            ),
            f"latency     publish to aggregate: p50 {quantile(latencies, 0.5):.0f} ms,"
            f" p99 {quantile(latencies, 0.99):.0f} ms, of {len(latencies):,} aggregates",
            f"problems    {'; '.join(result.problems) or 'none'}",
        ]
    )


def quantile(ordered: list[float], share: float) -> float:
    """Of sorted numbers; nan of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


def plot(result: Result) -> str:
    def line(name: str, what: Callable[[Sample], float]) -> list[Line]:
        return [Line(name, [(s.seconds / 60, what(s)) for s in result.samples])]

    minutes = result.samples[-1].seconds / 60
    return drawn(
        [
            Panel("memory of the gateway (RSS), MB", line("", lambda s: s.memory_bytes / 1e6)),
            Panel("thousand events waiting for the cloud", line("", lambda s: s.pending / 1000)),
        ],
        "minutes",
        max(1, round(minutes / 8)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=5000, help="messages per second")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--outage", type=float, default=20, help="minutes without the cloud, in the middle")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--memory", type=parse_size_bytes, help="limit of a control group, such as 128MiB")
    parser.add_argument("--svg", type=Path, help="where the plot goes")
    given = parser.parse_args()
    kind = best_broker_kind()
    assert kind is not None, "this needs a Mosquitto"
    plan = Plan(given.rate, given.minutes * 60, given.outage * 60, given.devices)
    with tempfile.TemporaryDirectory() as name, ExitStack() as cleanup:
        brokers = []
        for which in ("local", "cloud"):
            folder = Path(name, which)
            folder.mkdir()
            broker = make_broker(kind, BrokerSetup(free_port(), (), BROKER_LINES, folder, persistent=True))
            cleanup.callback(broker.close)
            brokers.append(broker)
        result = soak(Path(name), brokers[0], brokers[1], plan, given.memory)
    print(summary(result), flush=True)
    if given.svg:
        given.svg.write_text(plot(result))
    sys.exit(bool(result.problems))


if __name__ == "__main__":
    main()
