"""Microseconds of processor time that a route takes for one message, by what it does with it.

Run `.venv/bin/python -m benchmarks.decode`: one process, no broker, no disk. Figures of one run can be
compared with each other. `--json` prints them for a program.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import cbor2
import msgpack

from gateway.config import parse_config
from gateway.decode.routes import Decoded, Route, RouteTable

ROUNDS = 21
NOW_MS = 1_777_593_600_000
TOPIC = "plant/pump-7/state"
READING = {"t": 21.5, "h": 40.25, "p": 1013.2, "door": "OPEN", "quality": "good", "at": NOW_MS}
AS_JSON = json.dumps(READING).encode()
TIME = {"timestamp_path": "at", "timestamp_format": "unix_ms"}
PATHS = {"t": "t", "h": "h", "p": "p"}
LINE = b"2026-05-01T00:00:00Z;21,5;40,25;1013,2;ok\n"
COLUMNS = ["at", "t", "h", "p", "state"]


class Case(NamedTuple):
    name: str
    payload: bytes
    route: Mapping[str, Any]
    readings: int = 1


CASES = (
    Case("JSON, all members", AS_JSON, {}),
    Case("JSON, three paths, a time", AS_JSON, {"fields": PATHS, **TIME}),
    Case("the same, scale on one", AS_JSON, {"fields": {**PATHS, "t": {"from": "t", "scale": 0.1}}, **TIME}),
    Case(
        "the same, and a map",
        AS_JSON,
        {"fields": {**PATHS, "door": {"from": "door", "map": {"OPEN": 1, "CLOSED": 0}}}, **TIME},
    ),
    Case(
        "the same, and parse: number",
        AS_JSON.replace(b"1013.2", b'"1013,2 hPa"'),
        {"fields": {**PATHS, "p": {"from": "p", "parse": "number"}}, **TIME},
    ),
    Case(
        "the same, and compute",
        AS_JSON,
        {"fields": {**PATHS, "dew": {"compute": "t - (100 - h) / 5"}}, **TIME},
    ),
    Case("the same, and where", AS_JSON, {"fields": PATHS, "where": "quality == 'good' && t > -40", **TIME}),
    Case("JMESPath function", AS_JSON, {"fields": {**PATHS, "s": "number(door) || p"}, **TIME}),
    Case("JSON in zlib", zlib.compress(AS_JSON), {"fields": PATHS, **TIME}),
    Case("JSON in Latin-1", AS_JSON.replace(b"good", b"g\xfct"), {"fields": PATHS, **TIME}),
    Case("number", b"21.5", {"decoder": "number"}),
    Case("number, decimal comma", b"21,5", {"decoder": "number"}),
    Case("CBOR", cbor2.dumps(READING), {"decoder": "cbor", "fields": PATHS, **TIME}),
    Case("MessagePack", msgpack.packb(READING), {"decoder": "msgpack", "fields": PATHS, **TIME}),
    Case(
        "CSV, a line",
        LINE,
        {"decoder": "csv", "csv": {"columns": COLUMNS, "separator": ";", "decimal": ","}, "fields": PATHS},
    ),
    Case(
        "CSV, 100 lines, each",
        LINE * 100,
        {"decoder": "csv", "csv": {"columns": COLUMNS, "separator": ";", "decimal": ","}, "fields": PATHS},
        100,
    ),
    Case("NDJSON, 100 lines, each", (AS_JSON + b"\n") * 100, {"decoder": "ndjson", "fields": PATHS}, 100),
    Case(
        "line protocol, a line",
        b"m,site=hall t=21.5,h=40.25,p=1013.2 1777593600000000000",
        {"decoder": "influx", "fields": PATHS},
    ),
)


def compiled(route: Mapping[str, Any]) -> Route:
    """The route of one case."""
    entry = {"name": "r", "topic": "plant/{device}/state", **route}
    config = parse_config(json.dumps({"gateway": {"id": "bench"}, "routes": [entry]}))
    return RouteTable(config.route_specs()).routes[0]


class Timed:
    """A case that is timed again and again; the best round counts."""

    def __init__(self, case: Case, messages: int = 2_000) -> None:
        self.name = case.name
        self.best_us = float("inf")
        self._route, self._payload, self._readings = compiled(case.route), case.payload, case.readings
        self._count = max(1, messages // case.readings)
        decoded = self._decode()
        assert decoded.samples, f"{case.name}: {decoded}"
        assert not decoded.misses, f"{case.name}: {decoded}"

    def _decode(self) -> Decoded:
        return self._route.decode(TOPIC, {"device": "pump-7"}, self._payload, NOW_MS)

    def time(self) -> None:
        """Time one round."""
        began_ns = time.process_time_ns()
        for _ in range(self._count):
            self._decode()
        spent_us = (time.process_time_ns() - began_ns) / 1000
        self.best_us = min(self.best_us, spent_us / self._count / self._readings)


def measured(rounds: int = ROUNDS) -> dict[str, float]:
    """Return the microseconds of each case. The cases take turns, so that a busy while is shared by all."""
    cases = [Timed(case) for case in CASES]
    for _ in range(rounds):
        for case in cases:
            case.time()
    return {case.name: round(case.best_us, 2) for case in cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measured()
    if options.json:
        print(json.dumps(found))
        return
    for name, spent_us in found.items():
        print(f"{name:32} {spent_us:6.2f} µs")


if __name__ == "__main__":
    main()
