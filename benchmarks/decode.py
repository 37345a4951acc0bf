"""Microseconds that a route takes for one message, by what it does with it.

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
from gateway.decode.routes import Route, RouteTable

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


def microseconds(case: Case, *, rounds: int = 7, messages: int = 4_000) -> float:
    """The best of several rounds, per reading."""
    route, levels = compiled(case.route), {"device": "pump-7"}
    decoded = route.decode(TOPIC, levels, case.payload, NOW_MS)
    assert decoded.samples, f"{case.name}: {decoded}"
    assert not decoded.misses, f"{case.name}: {decoded}"
    count = max(1, messages // case.readings)
    best_s = float("inf")
    for _ in range(rounds):
        began_s = time.perf_counter()
        for _ in range(count):
            route.decode(TOPIC, levels, case.payload, NOW_MS)
        best_s = min(best_s, time.perf_counter() - began_s)
    return best_s / count / case.readings * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {case.name: round(microseconds(case), 2) for case in CASES}
    if options.json:
        print(json.dumps(found))
        return
    for name, spent_us in found.items():
        print(f"{name:32} {spent_us:6.2f} µs")


if __name__ == "__main__":
    main()
