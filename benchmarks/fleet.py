"""What `gateway fleet run` costs on each runner: events a second, processor time, and peak memory.

Run `python -m benchmarks.fleet --runners local:1 local:2 beam:1 flink:1` with the extras of the engines. Each
runner gets the same files: some gateways with a tumbling window, shuffled, and a fifth of the lines doubled.
Results that differ are said, with exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.support.fleets import WINDOWS, fleet_config, received

GATEWAYS = 5
DEVICES = 7
_LOOK_EVERY_S = 0.05
_MIB = 1 << 20


class Cost(NamedTuple):
    """The cost of one run, and a digest of its results."""

    clock_s: float
    cpu_s: float
    peak_bytes: int
    results: str


def written(folder: Path, events: int) -> list[Path]:
    """Write the input: `events` events of all gateways and a fifth more that are doubled, in two files."""
    chance = random.Random(5)
    lines = [
        line
        for number in range(GATEWAYS)
        for line in received(f"g{number}", DEVICES, events // GATEWAYS, number)
    ]
    lines += chance.sample(lines, len(lines) // 5)
    chance.shuffle(lines)
    paths = [folder / f"{part}.ndjson" for part in range(2)]
    for part, path in enumerate(paths):
        path.write_bytes(b"".join(lines[part::2]))
    return paths


class Watch:
    """What a process and all that it has started have used, as far as it was seen."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._cpu_s: dict[int, float] = {}

    @property
    def cpu_s(self) -> float:
        """Processor time of all of them, also of those that are gone."""
        return sum(self._cpu_s.values())

    def look(self) -> None:
        """Note what is used now. What ends between two looks is as it was at the first of them."""
        now_bytes = 0
        for pid in self._pids():
            try:
                times = psutil.Process(pid).cpu_times()
                self._cpu_s[pid] = times.user + times.system
                now_bytes += _most_bytes(pid)
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                continue
        self.peak_bytes = max(self.peak_bytes, now_bytes)

    def _pids(self) -> list[int]:
        try:
            return [self._pid, *(one.pid for one in psutil.Process(self._pid).children(recursive=True))]
        except psutil.NoSuchProcess:
            return []


def cost_of(runner: str, workers: int, config: Path, inputs: list[Path]) -> Cost:
    """Run `gateway fleet run` to its end. Raises CalledProcessError."""
    output = config.with_name(f"results-{runner}-{workers}.ndjson")
    command = [sys.executable, "-m", "gateway", "fleet", "run", "-c", str(config), "--output", str(output)]
    command += ["--runner", runner, *(["--workers", str(workers)] if runner != "beam" else [])]
    command += ["--input", *map(str, inputs)]
    began_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        watch = Watch(process.pid)
        while process.poll() is None:
            watch.look()
            time.sleep(_LOOK_EVERY_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    clock_s, lines = time.monotonic() - began_s, sorted(output.read_bytes().splitlines())
    return Cost(clock_s, watch.cpu_s, watch.peak_bytes, hashlib.sha256(b"\n".join(lines)).hexdigest())


def _most_bytes(pid: int) -> int:
    """The most memory that a process has had so far."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--runners", nargs="+", default=["local:1", "local:2"], metavar="RUNNER:WORKERS")
    options = parser.parse_args()
    results: set[str] = set()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config, inputs = fleet_config(folder, [WINDOWS[0]]), written(folder, options.events)
        for named in options.runners:
            runner, _, workers = named.partition(":")
            cost = cost_of(runner, int(workers or 1), config, inputs)
            results.add(cost.results)
            print(
                f"{named:9} {options.events / cost.clock_s:9,.0f} events/s  "
                f"{options.events / cost.cpu_s:9,.0f} per second of processor time  "
                f"{cost.cpu_s:6.1f} s  {cost.peak_bytes / _MIB:6,.0f} MiB"
            )
    print("results are equal" if len(results) == 1 else "RESULTS DIFFER")
    return len(results) != 1


if __name__ == "__main__":
    sys.exit(main())
