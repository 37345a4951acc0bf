"""The system clock is set, drifts, stands still or was never set, under a gateway with an NTP server."""

from __future__ import annotations

import json
import subprocess
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.core.events import Flag
from tests.conftest import MosquittoFactory
from tests.support.buffers import sql
from tests.support.gateways import HOST, GatewayProcess, gateway_config, wait_until
from tests.support.places import TESTS
from tests.support.publishing import Watcher, publish
from tests.support.timepeers import chrony, free_udp_port, need

ROUTE = {"name": "sensors", "topic": "sensors/{device}", "timestamp": "ingest"}
TRUSTED = {"name": "meters", "topic": "meters/{device}", "timestamp": "trusted", "timestamp_path": "t"}
SECONDS = {
    "name": "seconds",
    "route": "meters",
    "field": "v",
    "key": "{device}",
    "window": {"type": "tumbling", "size": "1s"},
    "out_of_orderness": "300ms",
    "idle_timeout": "2s",
}
NOISE_S = 2.0  # between publishing and the moment when the test looks at the clock


class Box:
    """A gateway whose system clock the test can move."""

    def __init__(
        self,
        folder: Path,
        local_url: str,
        ntp_port: int | None,
        patch: pytest.MonkeyPatch,
        hold: str = "0s",
    ) -> None:
        need("cc", packages="gcc libc6-dev")
        library = folder / "wall.so"
        source = TESTS / "support" / "wall.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        self.wall = folder / "wall"
        self.wall.write_text("shift 0")
        time_section: dict[str, object] = {"min_poll": "1s", "hold": hold}
        if ntp_port is not None:
            time_section["ntp"] = [f"{HOST}:{ntp_port}"]
        routes = [ROUTE, TRUSTED | {"timestamp_format": "unix_ms"}]
        config = gateway_config(folder, local_url, routes=routes, windows=[SECONDS], time=time_section)
        self.gateway = GatewayProcess(config)
        self._env = {"LD_PRELOAD": str(library), "WALL_FILE": str(self.wall)}
        self._patch = patch
        self.published_s: list[float] = []

    def start(self) -> None:
        with self._patch.context() as patch:
            for name, value in self._env.items():
                patch.setenv(name, value)
            self.gateway.start()
        self.gateway.wait_ready()

    def clock(self) -> dict[str, object]:
        return dict(json.loads(self.gateway.get("/clock") or "{}"))

    def wait_state(self, state: str) -> None:
        wait_until(lambda: self.clock().get("state") == state, f"{state}: {self.clock()}")

    def report(self, port: int, readings: int = 5) -> None:
        """A device that publishes now; when that was is noted by a clock that nobody moves."""
        for _ in range(readings):
            publish(port, [("sensors/a", json.dumps({"v": len(self.published_s)}))])
            self.published_s.append(time.time())
            wait_until(lambda: len(self.events()) >= len(self.published_s), "it is in the buffer")

    def events(self) -> list[tuple[object, ...]]:
        return sql(
            self.gateway.buffer_path,
            "SELECT ingest_time, flags, sequence_num, event_id FROM buffer_events WHERE kind = 0 ORDER BY id",
        )


def test_jumps_drift_and_a_frozen_clock_do_not_move_the_gateways_time(
    tmp_path: Path, mosquitto: MosquittoFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = mosquitto()
    with ExitStack() as stack:
        ntp_port = stack.enter_context(chrony(tmp_path / "chrony"))
        box = Box(tmp_path, local.url, ntp_port, monkeypatch)
        stack.callback(box.gateway.kill)
        box.start()
        box.wait_state("synchronised")
        box.report(local.port)
        for fault, kind in (
            ("shift 3600", "forward"),
            ("shift -3600", "backward"),
            (f"frozen {time.time()}", "frozen"),
            ("drift 200", None),
        ):
            box.wall.write_text(fault)
            if kind is not None:
                seen = f'gateway_clock_jumps_total{{kind="{kind}"}}'
                wait_until(lambda seen=seen: box.gateway.metric(seen) >= 1, f"the fault is seen: {kind}")
            box.report(local.port)
        events = box.events()
        assert len(events) == len(box.published_s), "nothing lost, nothing twice"
        for (ingest_ms, flags, _, _), published_s in zip(events, box.published_s, strict=True):
            assert float(str(ingest_ms)) / 1000 == pytest.approx(published_s, abs=NOISE_S)
            assert int(str(flags)) & Flag.TIME_UNCERTAIN == 0
        for column in (0, 2, 3):
            values = [event[column] for event in events]
            assert values == sorted(values), "times, numbers and ids never go back"  # type: ignore[type-var]
        assert box.clock()["steps"] == 0
        assert box.gateway.audit().problems == ()


def test_aggregates_under_clock_faults_are_those_of_an_undisturbed_run(
    tmp_path: Path, mosquitto: MosquittoFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices whose own times are right report five times a second while the system clock goes wild."""
    local = mosquitto()
    with ExitStack() as stack:
        ntp_port = stack.enter_context(chrony(tmp_path / "chrony"))
        box = Box(tmp_path, local.url, ntp_port, monkeypatch)
        stack.callback(box.gateway.kill)
        box.start()
        box.wait_state("synchronised")
        dashboard = stack.enter_context(Watcher(local.port, "gateway/g1/aggregates/seconds/#"))
        sent: list[tuple[str, int, int]] = []
        for fault in ("shift 0", "shift 3600", "shift -3600", f"frozen {time.time()}", "drift 200"):
            box.wall.write_text(fault)
            for _ in range(6):
                sent += readings(local.port, len(sent))
                time.sleep(0.2)  # a device's own rate; nothing is judged by it
        expected = recomputed(sent)
        wait_until(lambda: len(dashboard.messages) >= len(expected), "the last window closes by silence")
        aggregates = [json.loads(message.payload) for message in dashboard.messages]
        found = [(a["key"], a["start_ms"], a["kind"], a["count"], a["result"]["sum"]) for a in aggregates]
        assert sorted(found) == expected, "each window once, on time, whole"
        assert box.gateway.audit().problems == ()


DEVICES = ("a", "b", "c")


def readings(port: int, number: int) -> list[tuple[str, int, int]]:
    """(device, its time, value) of one reading of each device, published."""
    now_ms = time.time_ns() // 1_000_000
    made = [(device, now_ms, number + at) for at, device in enumerate(DEVICES)]
    publish(port, [(f"meters/{device}", json.dumps({"t": t, "v": v})) for device, t, v in made])
    return made


def recomputed(sent: list[tuple[str, int, int]]) -> list[tuple[str, int, str, int, float]]:
    """(key, start, kind, count, sum) of the windows of an undisturbed run, from the readings alone."""
    values: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for device, time_ms, value in sent:
        values[device, time_ms // 1000 * 1000].append(value)
    return sorted((key, start, "on_time", len(v), float(sum(v))) for (key, start), v in values.items())


def test_after_a_boot_in_1970_events_are_flagged_until_a_server_answers(
    tmp_path: Path, mosquitto: MosquittoFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = mosquitto()
    with ExitStack() as stack:
        port = free_udp_port()
        box = Box(tmp_path, local.url, port, monkeypatch)
        stack.callback(box.gateway.kill)
        box.wall.write_text(f"shift {-int(time.time()) + 60}")
        box.start()
        box.wait_state("unset")
        box.report(local.port)
        stack.enter_context(chrony(tmp_path / "chrony", port=port))
        box.wait_state("synchronised")
        box.report(local.port)
        events = box.events()
        uncertain = [bool(int(str(flags)) & Flag.TIME_UNCERTAIN) for _, flags, _, _ in events]
        assert uncertain == [True] * 5 + [False] * 5
        for (ingest_ms, _, _, _), published_s in zip(events[5:], box.published_s[5:], strict=True):
            assert float(str(ingest_ms)) / 1000 == pytest.approx(published_s, abs=NOISE_S)
        ids = [event[3] for event in events]
        assert ids == sorted(ids)  # type: ignore[type-var]
        assert [event[2] for event in events] == [*range(1, 11)]


def test_after_a_boot_in_1970_what_comes_waits_for_a_server_and_is_dated_by_it(
    tmp_path: Path, mosquitto: MosquittoFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = mosquitto()
    with ExitStack() as stack:
        port = free_udp_port()
        box = Box(tmp_path, local.url, port, monkeypatch, hold="5m")
        stack.callback(box.gateway.kill)
        box.wall.write_text(f"shift {-int(time.time()) + 60}")
        box.start()
        box.wait_state("unset")
        sent = []
        for number in range(5):
            sent += readings(local.port, number)
            box.published_s += [time.time()] * len(DEVICES)
        waiting = "SELECT count(*) FROM undated"
        wait_until(lambda: sql(box.gateway.buffer_path, waiting) == [(len(sent),)], "they wait")
        assert box.events() == []
        box.gateway.kill()
        box.start()
        stack.enter_context(chrony(tmp_path / "chrony", port=port))
        wait_until(lambda: len(box.events()) == len(sent), "they are dated")
        for (ingest_ms, flags, _, _), published_s in zip(box.events(), box.published_s, strict=True):
            assert float(str(ingest_ms)) / 1000 == pytest.approx(published_s, abs=NOISE_S)
            assert int(str(flags)) & Flag.TIME_UNCERTAIN == 0
        assert sql(box.gateway.buffer_path, waiting) == [(0,)]
        assert box.gateway.audit().problems == ()
