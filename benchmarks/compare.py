"""Ratios of this checkout to another commit, both in one run: rates, latencies, start, memory.

`make bench-compare BASE=<commit>` or `python -m benchmarks.compare BASE [--rounds 5] [--rows start]`. Both
take turns, so that whatever else the machine does meets both; each figure is the median of the rounds. Where
this checkout is more than 5 % worse that is said, and no failure: a busy machine can do that too. Both run
with the packages of this environment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import latency
from benchmarks.programs import HOST, ROOT, running_broker, running_gateway
from gateway.lab.load import publish_all, reserve_session
from tests.support.gateways import wait_until
from tests.support.ports import free_port

WORSE = 0.05  # from here on it is said
PATIENCE_S = 300.0
_CLIENT = "compare"
_DEVICES = 1000
_LOOK_EVERY_S = 0.05


class Figure(NamedTuple):
    """What a row measures."""

    value: float
    unit: str
    more_is_better: bool = False

    def __str__(self) -> str:
        return f"{self.value:,.{0 if self.value >= 100 else 2}f} {self.unit}"


Figures = dict[str, Figure]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=50_000, help="in each drain")
    parser.add_argument("--seconds", type=float, default=5.0, help="for the latency")
    parser.add_argument("--rows", default="", help="only measurements with this in their name")
    given = parser.parse_args()
    measurements: dict[str, Callable[[Path], Figures]] = {
        "drain": partial(drain, messages=given.messages),
        "drain with windows of 1 h": partial(drain, messages=given.messages, size="1h"),
        "drain in the event format": partial(drain, messages=given.messages, form="event"),
        "latency": partial(latency_at, rate=100, seconds=given.seconds),
        "start": start,
    }
    chosen = {name: measure for name, measure in measurements.items() if given.rows in name}
    if not chosen:
        parser.error(f"no measurement has {given.rows!r} in its name: {', '.join(measurements)}")
    with checkout(given.base) as base:
        print(f"{'':38} {'base':>16} {'here':>16}  here/base", flush=True)
        for measure in chosen.values():
            compare(measure, base, given.rounds)


def compare(measure: Callable[[Path], Figures], base: Path, rounds: int) -> None:
    """Measure both in turns, and print a line for each figure."""
    found: dict[Path, list[Figures]] = {base: [], ROOT: []}
    for number in range(rounds):
        for root in (base, ROOT) if number % 2 == 0 else (ROOT, base):
            found[root].append(measure(root))
    for row in found[ROOT][0]:
        before, now = (middle([figures[row] for figures in found[root]]) for root in (base, ROOT))
        ratio = now.value / before.value if before.value else float("nan")
        print(f"{row:38} {before!s:>16} {now!s:>16}  {ratio:.2f}{remark(before, now)}", flush=True)


def middle(figures: list[Figure]) -> Figure:
    """The median of one row."""
    return figures[0]._replace(value=median(each.value for each in figures))


def remark(before: Figure, now: Figure) -> str:
    """A warning where it has become worse by more than the 5 %."""
    better = now.value / before.value if before.value else 1.0
    if not now.more_is_better:
        better = 1 / better if better else 1.0
    return f"  warning: {1 - better:.0%} worse" if better < 1 - WORSE else ""


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A folder with the files of that commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


# --- the measurements ---


def drain(root: Path, *, messages: int, size: str = "1m", form: str = "batch") -> Figures:
    """Messages that wait at the local broker: until they are on disk, and until the cloud broker has them."""
    with ExitStack() as stack:
        local, cloud = stack.enter_context(running_broker()), stack.enter_context(running_broker())
        reserve_session(HOST, local.port, _CLIENT, "bench/+")
        publish_all(HOST, local.port, _fleet(messages))
        local.pause()  # until the gateway can be looked at
        stack.callback(local.resume)
        http = free_port()
        process = stack.enter_context(
            running_gateway(root, _config(local.port, cloud.port, http, size, form))
        )
        wait_until(lambda: bool(scrape(http)), "the gateway", PATIENCE_S)
        local.resume()
        before_s, began_s, durable_s = sum(process.cpu_times()[:2]), time.monotonic(), 0.0
        while True:
            numbers = scrape(http)
            took_s = time.monotonic() - began_s
            if not durable_s and numbers.get('gateway_messages_total{outcome="buffered"}', 0.0) >= messages:
                durable_s = took_s
            if durable_s and numbers.get('gateway_buffer_events{status="synced"}', 0.0) >= messages:
                break
            assert took_s < PATIENCE_S, "the drain does not end"
            time.sleep(_LOOK_EVERY_S)
        spent_us = 1e6 * (sum(process.cpu_times()[:2]) - before_s) / messages
    kind = f"{'' if form == 'batch' else form + ' format, '}windows of {size}"
    return {
        f"durable, {kind}": Figure(messages / durable_s, "/s", more_is_better=True),
        f"in the cloud, {kind}": Figure(messages / took_s, "/s", more_is_better=True),
        f"processor, {kind}": Figure(spent_us, "µs"),
    }


def latency_at(root: Path, *, rate: int, seconds: float) -> Figures:
    """A gateway with little to do."""
    found = latency.measure(root, rate, seconds)
    return {
        f"publish → aggregate, p50 at {rate}/s": Figure(median(found.aggregates), "ms"),
        f"publish → cloud, p50 at {rate}/s": Figure(median(found.cloud), "ms"),
        f"processor at {rate}/s": Figure(100 * found.processor, "%"),
        f"resident at {rate}/s": Figure(found.resident_mib, "MiB"),
    }


def start(root: Path) -> Figures:
    """From the command until `/readyz` says yes."""
    with ExitStack() as stack:
        local, cloud = stack.enter_context(running_broker()), stack.enter_context(running_broker())
        http = free_port()
        began_s = time.monotonic()
        stack.enter_context(running_gateway(root, _config(local.port, cloud.port, http, "1m", "batch")))
        while not is_ready(http):
            assert time.monotonic() - began_s < PATIENCE_S, "the gateway does not start"
            time.sleep(0.005)
        return {"start": Figure(time.monotonic() - began_s, "s")}


def scrape(port: int) -> dict[str, float]:
    """The gateway's metrics; none while it is starting."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] != "#"}


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _fleet(messages: int) -> Iterator[tuple[str, bytes]]:
    start_ms = 1_700_000_000_000
    for number in range(messages):
        reading = {"Time": start_ms + number * 10, "T": 20 + number * 7 % 100 / 10, "H": number * 3 % 200 / 2}
        yield f"bench/dev{number % _DEVICES}", json.dumps(reading).encode()


def _config(local: int, cloud: int, http: int, size: str, form: str) -> dict[str, Any]:
    route = {"name": "bench", "topic": "bench/{device}", "timestamp_path": "Time"}
    window = {"name": "all", "route": "bench", "field": "T", "key": "{device}"}
    return {
        "gateway": {"id": "bench", "data_dir": "data"},
        "local": {"url": f"mqtt://{HOST}:{local}", "client_id": _CLIENT},
        "cloud": {"url": f"mqtt://{HOST}:{cloud}", "format": form},
        "http": {"listen": f"{HOST}:{http}"},
        "routes": [{**route, "timestamp_format": "unix_ms", "timestamp": "trusted"}],
        "windows": [{**window, "window": {"type": "tumbling", "size": size}, "out_of_orderness": "10s"}],
    }


if __name__ == "__main__":
    main()
