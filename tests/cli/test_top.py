"""`gateway top`, on a running gateway and on states that are made up."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gateway.cli.top import Screens
from gateway.cli.top_devices import TopDevices, rows_of
from gateway.cli.top_screen import Top, duration
from tests.support import commands
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port

TOKEN = "sixteen-letters-and-more"  # noqa: S105


def test_it_finds_gateway_and_token_through_the_configuration_and_q_ends_it(tmp_path: Path) -> None:
    http = {"listen": f"127.0.0.1:{free_port()}", "token": TOKEN}
    config = gateway_config(tmp_path, "mqtt://127.0.0.1:9", http=http)
    missing = commands.gateway("top", "-c", config)
    assert missing.returncode == 1
    assert "is the gateway running?" in missing.stderr
    with GatewayProcess(config) as gateway:
        wait_until(lambda: gateway.get("/healthz"), gateway.log())
        assert "g1  degraded" in commands.gateway("top", "-c", config).stdout
        assert json.loads(commands.gateway("top", "-c", config, "--json").stdout)["gateway"]["id"] == "g1"
        refused = commands.gateway("top", "--url", f"http://{http['listen']}")
        assert (refused.returncode, "give --token-file" in refused.stderr) == (1, True)
        screen = _typed([sys.executable, "-m", "gateway", "top", "-c", str(config)], b"q")
        assert "q quits" in screen
        devices = _typed([sys.executable, "-m", "gateway", "top", "-c", str(config)], b"dsoq")
        assert "by heard, only silent" in devices


def _typed(command: list[str], key: bytes) -> str:
    """What `command` draws on a terminal on which `key` is typed once it has drawn, until it ends."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
    )
    os.close(theirs)
    drawn = b""
    try:
        while part := os.read(ours, 4096):
            if b"q quits" not in drawn and b"q quits" in drawn + part:
                os.write(ours, key)
            drawn += part
    except OSError:
        pass  # the terminal is gone with the process
    finally:
        os.close(ours)
    assert process.wait(30) == 0
    return drawn.decode()


def state(**changes: Any) -> dict[str, Any]:
    window = {"keys": 12, "open_windows": 24, "emitted": 83, "late_dropped": 1, "lag_ms": 1500}
    device = {"name": "hall-1", "offset_ms": 90_000, "undecoded": 3}
    return {
        "gateway": {"id": "plant-7", "status": "degraded", "uptime_s": 3700, "problems": ["a", "b", "c"]},
        "rates": {"in_per_s": 60.0, "out_per_s": 64.2, "results_per_s": 3.7},
        "buffer": {
            "statuses": {"pending": 6884, "syncing": 200, "synced": 2504, "failed": 1, "corrupt": 0},
            "used_bytes": 5_500_000,
            "max_bytes": 2**31,
            "forecast": {"state": "draining", "waiting": 7084, "empty_in_s": 125.0, "full_in_s": None},
        },
        "links": [
            {"name": name, "connected": name != "bridge-0", "last_error": ""}
            for name in ("ingest", "bridge-0")
        ],
        "windows": [{"name": f"window_{n}", **window} for n in range(30)],
        "devices": {
            "known": 20,
            **{f"{name}_count": 9 for name in ("silent", "wrong_clock", "unreadable")},
            **{name: [device] * 9 for name in ("silent", "wrong_clock", "unreadable")},
        },
        "alerts": [{"alert": "hot", "message": "31.5 in the hall " * 9}] * 30,
    } | changes


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 20)])
def test_it_fits_the_terminal_however_much_there_is_to_show(width: int, height: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(Top(state()))
    lines = captured.get().rstrip("\n").split("\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "the backlog drains: about 2 min 5 s left" in captured.get()
    assert " more" in captured.get()


def drawn(**changes: Any) -> str:
    console = Console(file=io.StringIO(), width=80, height=24)
    with console.capture() as captured:
        console.print(Top(state(**changes)))
    return captured.get()


def test_it_uses_the_height_and_scrolls_to_the_last_window() -> None:
    console = Console(file=io.StringIO(), width=80, height=40)

    def shown(first: int, windows: int = 30) -> str:
        with console.capture() as captured:
            console.print(Top(state(alerts=[], windows=state()["windows"][:windows]), first=first))
        return captured.get()

    assert ("window_21" in shown(0), "window_29" in shown(0)) == (True, False)
    assert ("window_0 " in shown(99), "window_29" in shown(99)) == (False, True)
    assert "  hall-1  silent" in shown(0, windows=4).splitlines()


def on(number: int, state_: str = "active") -> dict[str, Any]:
    value = {"value": 31.25, "value_name": "mean", "limit": 30.0, "since_ms": 1_700_000_000_000}
    return {"window": "hot", "key": f"tank{number}", "state": state_, "acknowledged_by": "anna", **value}


def test_alarms_that_are_on_stand_above_the_windows() -> None:
    alarms = {"counts": {"active": 1, "acknowledged": 1, "cleared": 5}, "on": [on(1), on(2, "acknowledged")]}
    text = drawn(alarms=alarms)
    assert re.search(r"alarm hot / tank1  since \d\d:\d\d:\d\d  mean 31.25, limit 30", text)
    assert "seen by anna" in text
    assert text.index("tank1") < text.index("tank2") < text.index("window_0")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_many_alarms_leave_room_for_the_rest(width: int, height: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height)
    alarms = {"counts": {"active": 500, "acknowledged": 0, "cleared": 0}, "on": [on(n) for n in range(20)]}
    with console.capture() as captured:
        console.print(Top(state(alarms=alarms)))
    assert len(captured.get().rstrip("\n").split("\n")) <= height
    assert re.search(r"and 49\d more alarms: gateway alarms list", captured.get())


def test_windows_are_sorted_by_what_was_chosen() -> None:
    windows = [
        {**state()["windows"][0], "name": name, "keys": keys, "lag_ms": lag}
        for name, keys, lag in (("few", 1, None), ("many", 900, 10), ("some", 30, 99_000))
    ]
    console = Console(file=io.StringIO(), width=80, height=40)

    def order(sort: str) -> list[str]:
        with console.capture() as captured:
            console.print(Top(state(windows=windows, alerts=[]), sort=sort))
        words = captured.get().split()
        return sorted(("few", "many", "some"), key=words.index)

    assert order("as configured") == ["few", "many", "some"]
    assert order("keys") == ["many", "some", "few"]
    assert order("behind") == ["some", "many", "few"]


def device(number: int, **changes: Any) -> dict[str, Any]:
    values = [{"field": "temperature", "value": 21.512345, "unit": "°C", "time_ms": 1}]
    return {
        **{
            "name": f"a-device-with-a-long-name-{number}",
            "last_ms": 0,
            "messages": 12,
            "interval_ms": 60_000,
        },
        **{"silent": False, "undecoded": 0, "missed": 0, "clock_off_ms": None, "alarms": 0, "values": values},
        **changes,
    }


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 12)])
def test_devices_fit_the_terminal(width: int, height: int) -> None:
    wrong: list[dict[str, Any]] = [
        {"silent": True},
        {"alarms": 2},
        {"clock_off_ms": -90_000},
        {"undecoded": 3},
        {"missed": 4},
    ]
    devices = [device(number, **(wrong[number] if number < 5 else {})) for number in range(60)]
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as captured:
        console.print(TopDevices({"time_ms": 7200_000, "found": 60, "devices": devices}, "name", "all", 0))
    text = captured.get()
    lines = text.rstrip("\n").split("\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert all(
        word in text for word in ("silent", "2 alarms", "clock -2 min", "3 unread", "4 misses", "2 h ago")
    )
    assert f"1 to {rows_of(height)} of 60" in text


def test_keys_scroll_sort_and_choose() -> None:
    asked: list[str] = []

    def ask(path: str = "/api/state") -> dict[str, Any]:
        asked.append(path)
        return state() if path == "/api/state" else {"time_ms": 0, "found": 100, "devices": []}

    screens = Screens(ask, lambda: 24)
    for key in ("", "j", "d", " ", "k", "s", "o", "d"):
        screens.typed(key)
        screens.drawn()
    table = "/api/devices/table?sort=name&only=all&offset={}&limit=20"
    assert asked == [
        *("/api/state", "/api/state"),
        *(table.format(offset) for offset in (0, 20, 19)),
        "/api/devices/table?sort=heard&only=all&offset=0&limit=20",
        "/api/devices/table?sort=heard&only=silent&offset=0&limit=20",
        "/api/state",
    ]


def test_it_says_without_colours_what_is_wrong_and_where() -> None:
    result = {"alert": "raised", "mean": 24.31212121, "limit": 24}
    alert = {"window": "too_warm", "key": "oven", "end_ms": 1_700_000_000_000, "result": result}
    screen = drawn(
        links=[{"name": "bridge-0", "connected": False, "last_error": "Connection refused"}],
        sections={"backpressure": {"action": "SLOW_DOWN", "reasons": ["cpu", "queue"]}},
        alerts=[alert],
    )
    assert "○ bridge-0  Connection refused" in screen
    assert "backpressure: slow down; too much: cpu, queue" in screen
    assert ":20  raised  too_warm / oven  mean 24.31, limit 24" in screen


def test_a_state_that_is_old_says_so() -> None:
    console = Console(file=io.StringIO(), width=80, height=24)
    with console.capture() as captured:
        console.print(Top(state(), "it does not answer"))
    assert "no answer" in captured.get()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2 s"), (42, "42 s"), (185, "3 min 5 s"), (7_800, "2 h 10 min"), (90_000, "1 d 1 h")],
)
def test_durations_have_two_parts(seconds: float, text: str) -> None:
    assert duration(seconds) == text
