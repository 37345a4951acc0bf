"""More than the gateway can take, for minutes: it stays up, sheds in the stated order, comes back to rest.

Run `.venv/bin/python -m tests.proofs.overload --share 0.15 --times 3 --minutes 5`. A control group limits the
processor time of the gateway; what it can take within that is measured first. Of ten messages one is of a
route that sheds nothing, six are of one that allows sampling, three have low priority.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil

from gateway.buffer.proof.balance import Audit
from gateway.buffer.reader import Reader
from gateway.lab.load import publish_all
from tests.proofs.soak import BROKER_LINES, quantile
from tests.proofs.soak_fleet import publishing_fleet
from tests.support.broker_kinds import best_broker_kind
from tests.support.brokers import Broker, BrokerSetup, make_broker
from tests.support.cpu_group import cpu_group, why_no_cpu_group
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port

PATIENCE_S = 1800.0
LOOK_EVERY_S = 1.0
DEVICES = 1000
TOPICS = ["normal/d{device}", *["bulk/d{device}"] * 6, *["low/d{device}"] * 3]
_TIME = {"timestamp_path": "t", "timestamp_format": "unix_ms", "timestamp": "trusted"}
ROUTES = [
    {"name": "normal", "topic": "normal/{device}"} | _TIME,
    {"name": "bulk", "topic": "bulk/{device}", "sampling": "allow"} | _TIME,
    {"name": "low", "topic": "low/{device}", "priority": "low"} | _TIME,
]
WINDOWS = [
    {
        "name": "minute",
        "route": "normal",
        "field": "v",
        "key": "{device}",
        "window": {"type": "tumbling", "size": "1m"},
    }
]
OUTCOMES = {
    "buffered": 'gateway_messages_total{outcome="buffered"}',
    "sampled": 'gateway_messages_total{outcome="sampled"}',
    "rejected": 'gateway_messages_rejected_total{reason="overload"}',
}


class Look(NamedTuple):
    """What was seen at one moment. `answer_s` is how long `/healthz` took; None when it did not answer."""

    seconds: float
    level: float
    counts: dict[str, int]
    answer_s: float | None
    rss_bytes: int


class Result(NamedTuple):
    """`published` are the messages of the overload; `audit` counts those of the measurement before it too."""

    share: float
    capacity_per_s: float
    measured: int
    rate_per_s: int
    published: int
    published_s: float
    rested_s: float
    looks: list[Look]
    audit: Audit
    normal_kept: int

    def first(self, outcome: str) -> Look | None:
        """When the first message with that outcome was seen."""
        return next((look for look in self.looks if look.counts[outcome]), None)

    @property
    def problems(self) -> list[str]:
        """What must not be."""
        messages, found = self.audit.messages, list(self.audit.problems)
        came = sum(messages.values()) - messages.get("duplicate", 0)
        if came != self.published + self.measured:
            found.append(f"{self.published + self.measured} published, {messages}")
        normal = self.measured + -(-self.published // len(TOPICS))
        if self.normal_kept != normal:
            found.append(f"{normal} messages must not be shed, {self.normal_kept} were kept")
        if any(look.answer_s is None for look in self.looks):
            found.append("/healthz did not answer")
        for outcome, level in (("sampled", 1), ("rejected", 2)):
            look = self.first(outcome)
            if look is None or max(each.level for each in self.looks if each.seconds <= look.seconds) < level:
                found.append(f"not {outcome} from level {level} on: {look}")
        return found


class Overload:
    """A broker, a limited gateway without a cloud, and a fleet."""

    def __init__(self, folder: Path, broker: Broker, inside: tuple[str, ...]) -> None:
        self._broker = broker
        config = gateway_config(folder, broker.url, routes=ROUTES, windows=WINDOWS)
        self.gateway = GatewayProcess(config, inside)
        self._looks: list[Look] = []

    def live_through(self, share: float, times: float, seconds: float, measured: int) -> Result:
        """Measure, overload, wait for rest, stop, count."""
        with self.gateway:
            self.gateway.wait_ready()
            capacity_per_s = self._measure(measured)
            self._watch(self._is_at_rest)
            self._looks = []
            started_s, rate_per_s = time.monotonic(), round(times * capacity_per_s)
            with publishing_fleet(self._broker.port, DEVICES, rate_per_s, seconds, TOPICS) as fleet:
                self._watch(lambda: not fleet.running)
                published, published_s = fleet.acknowledged, time.monotonic() - started_s
            self._watch(lambda: self._taken() == measured + published and self._is_at_rest())
            rested_s = time.monotonic() - started_s
            assert self.gateway.stop() == 0, self.gateway.log()
        looks = [look._replace(seconds=look.seconds - started_s) for look in self._looks]
        return Result(
            *(share, capacity_per_s, measured, rate_per_s, published, published_s, rested_s, looks),
            *(self.gateway.audit(), self._normal_kept()),
        )

    def _measure(self, messages: int) -> float:
        """How many messages that wait at the broker it takes per second."""
        taken = OUTCOMES["buffered"]
        readings = [(f"normal/d{n % 100}", b'{"n":%d,"v":21.5,"unit":"C"}' % n) for n in range(messages)]
        started_s = time.monotonic()
        publish_all("127.0.0.1", self._broker.port, readings)
        wait_until(lambda: self.gateway.metric(taken) >= messages, "the measurement", PATIENCE_S)
        return messages / (time.monotonic() - started_s)

    def _watch(self, until: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < deadline_s, f"gave up:\n{self.gateway.log()}"
            self._looks.append(self._look())
            if until():
                return
            time.sleep(LOOK_EVERY_S)

    def _look(self) -> Look:
        began_s = time.monotonic()
        answer_s = time.monotonic() - began_s if self.gateway.get("/healthz") is not None else None
        lines = (self.gateway.get("/metrics") or "").splitlines()
        numbers = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return Look(
            began_s,
            float(numbers.get("gateway_backpressure_level", "nan")),
            {name: int(float(numbers.get(metric, 0))) for name, metric in OUTCOMES.items()},
            answer_s,
            psutil.Process(self.gateway.pid).memory_info().rss,
        )

    def _taken(self) -> int:
        return sum(self._looks[-1].counts.values())

    def _is_at_rest(self) -> bool:
        return self._looks[-1].level == 0

    def _normal_kept(self) -> int:
        reader = Reader(self.gateway.buffer_path)
        try:
            names = reader.streams_after("normal/", DEVICES)
            return sum(last for name, last in names if name.startswith("normal/"))
        finally:
            reader.close()


def overload(
    folder: Path, broker: Broker, share: float, times: float, seconds: float, measured: int
) -> Result:
    """One run: `times` what a gateway with `share` of a core takes, for so long."""
    with cpu_group(share) as inside:
        return Overload(folder, broker, inside).live_through(share, times, seconds, measured)


def summary(result: Result) -> str:
    answers = sorted(look.answer_s for look in result.looks if look.answer_s is not None)
    firsts = {name: result.first(name) for name in ("sampled", "rejected")}
    messages = result.audit.messages
    return "\n".join(
        [
            f"capacity    {result.capacity_per_s:,.0f} msg/s with {result.share:.0%} of a core",
            f"published   {result.published:,} in {result.published_s:,.0f} s"
            f" ({result.published / result.published_s:,.0f}/s, planned {result.rate_per_s:,}/s)",
            f"outcomes    {messages} with the {result.measured:,} of the measurement",
            *(f"{name:11} first seen after {at.seconds:.0f} s" for name, at in firsts.items() if at),
            f"level       {max(look.level for look in result.looks):.2f} at most; at rest"
            f" {result.rested_s - result.published_s:,.0f} s after the fleet's end",
            f"/healthz    {len(answers)} of {len(result.looks)} answers,"
            f" p50 {1000 * quantile(answers, 0.5):.0f} ms, slowest {1000 * answers[-1]:,.0f} ms",
            f"memory      {max(look.rss_bytes for look in result.looks) / 1e6:.0f} MB at most",
            f"problems    {'; '.join(result.problems) or 'none'}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.15, help="of one core, for the gateway")
    parser.add_argument("--times", type=float, default=3, help="how often what it can take")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--measured", type=int, default=20_000, help="messages to measure with")
    given = parser.parse_args()
    kind, hindrance = best_broker_kind(), why_no_cpu_group()
    assert kind is not None, "this needs a Mosquitto"
    assert not hindrance, hindrance
    with tempfile.TemporaryDirectory() as name, ExitStack() as cleanup:
        setup = BrokerSetup(free_port(), (), BROKER_LINES, Path(name), persistent=False)
        broker = make_broker(kind, setup)
        cleanup.callback(broker.close)
        result = overload(Path(name), broker, given.share, given.times, given.minutes * 60, given.measured)
    print(summary(result), flush=True)
    sys.exit(bool(result.problems))


if __name__ == "__main__":
    main()
