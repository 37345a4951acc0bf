"""`gateway demo`: it ends by itself, it balances, and it leaves nothing behind."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gateway.buffer.proof.balance import Audit
from gateway.cli import demo_screen
from gateway.cli.demo_screen import Act, Check, Screen, Story, balance, balance_checks, progress_line
from gateway.core.events import Status
from gateway.lab.demo_stage import Counted, Numbers
from tests.support import commands

WAIT_S = 120.0
SHORT = ("--seconds", "6", "--rate", "100", "--devices", "5")
AUDIT = Audit(
    messages={"buffered": 100},
    appended={"raw": 100, "aggregate": 7},
    statuses={"pending": 0, "syncing": 0, "synced": 107, "failed": 0, "corrupt": 0},
    evicted={},
    streams=12,
    shed=(),
    problems=(),
)
COUNTED = Counted(100, 100, AUDIT, {"raw": 100, "aggregate": 7}, duplicates=5, missing=0)
NUMBERS = Numbers(
    1_234_567, 1_234_567, 1_234_567, 999, 200, 1_233_368, 0, 1_233_368, 99, 4321, 21, True, True, ""
)


def demo(temporary: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo", *SHORT, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def failed(counted: Counted) -> list[str]:
    return [check.what for check in balance_checks(counted) if not check.ok]


# --- the whole demo


def test_it_balances_through_an_outage_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = demo(tmp_path, "--json")
    stdout, stderr = process.communicate(timeout=WAIT_S)
    result = json.loads(stdout)
    assert (process.returncode, stderr) == (0, "")
    assert result["balanced"] is True
    assert result["published"] >= 500
    assert result["received"]["raw"] == result["published"]
    assert result["received"]["aggregate"] == result["appended"]["aggregate"] > 0
    assert any("cut" in moment["text"] for moment in result["timeline"])
    assert list(tmp_path.iterdir()) == []


def test_through_a_pipe_it_prints_lines_and_what_it_keeps_says_the_same(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    process = demo(tmp_path, "--keep", str(kept))
    stdout, stderr = process.communicate(timeout=WAIT_S)
    assert (process.returncode, stderr) == (0, "")
    assert "\x1b" not in stdout
    assert "http://127.0.0.1:" in stdout
    assert "line CUT" in stdout
    assert "It balances" in stdout
    received = [
        json.loads(line) for line in (kept / "received.ndjson").read_text(encoding="utf-8").splitlines()
    ]
    with sqlite3.connect(kept / "data" / "events.db") as database:
        stored = {bytes(row[0]).hex() for row in database.execute("SELECT event_id FROM buffer_events")}
    database.close()
    assert {line["event_id"].replace("-", "") for line in received} == stored
    assert len(received) == len(stored)
    assert commands.gateway("check", "-c", kept / "gateway.yaml").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_terminal_and_the_disk_as_they_were(number: int, tmp_path: Path) -> None:
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "TMPDIR": str(tmp_path), "PYTHONUTF8": "1"},
    )
    os.close(theirs)
    try:
        shown = read_until(terminal, lambda text: b"sensors begin to publish" in text)
        process.send_signal(number)
        shown += read_until(terminal, lambda _: False)
        assert process.wait(WAIT_S) == 1
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l") == 1
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    assert b"nothing is left behind" in shown
    assert list(tmp_path.iterdir()) == []


def read_until(terminal: int, enough: Callable[[bytes], bool]) -> bytes:
    """What the terminal shows until `enough` of it is there or the other end closes."""
    shown = b""
    while not enough(shown):
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux says EIO when the last process has closed the terminal
            break
        if not data:
            break
        shown += data
    return shown


def test_a_folder_with_something_in_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    process = demo(tmp_path, "--keep", str(tmp_path))
    _, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert "--keep" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# --- the balance


def test_equal_counts_balance() -> None:
    assert failed(COUNTED) == []


def test_messages_that_were_recognised_as_redelivered_are_accounted_for() -> None:
    again = AUDIT._replace(messages={"buffered": 100, "duplicate": 3})
    assert failed(COUNTED._replace(buffer=again, published=103, acknowledged=103)) == []


@pytest.mark.parametrize(
    "changed",
    [
        COUNTED._replace(published=101),
        COUNTED._replace(acknowledged=99),
        COUNTED._replace(buffer=AUDIT._replace(messages={"buffered": 99})),
        COUNTED._replace(buffer=AUDIT._replace(appended={"raw": 101, "aggregate": 7})),
        COUNTED._replace(buffer=AUDIT._replace(statuses={"synced": 106, "pending": 1})),
        COUNTED._replace(buffer=AUDIT._replace(statuses={"synced": 106})),
        COUNTED._replace(received={"raw": 99, "aggregate": 7}),
        COUNTED._replace(received={"raw": 100, "aggregate": 7, "alert": 1}),
        COUNTED._replace(received={"raw": 100}),
        COUNTED._replace(missing=1),
    ],
)
def test_a_single_event_too_few_or_too_many_is_noticed(changed: Counted) -> None:
    assert failed(changed) != []


def test_the_account_says_how_much_is_missing() -> None:
    assert Check("a = b", 98, 100).verdict == "2 MISSING"
    assert Check("a = b", 101, 100).verdict == "1 TOO MANY"
    lost = COUNTED._replace(received={"raw": 98, "aggregate": 7})
    text = drawn(80, 24, balance(lost, balance_checks(lost)))
    assert "2 MISSING" in text
    assert "does NOT balance" in text


# --- the screen


def drawn(width: int, height: int, what: Any) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def story(now_s: float, numbers: Numbers = NUMBERS) -> Story:
    told = Story((Act(0.0, "all is well"), Act(10.0, "the cloud is cut off"), Act(20.0, "it is back")), 30.0)
    for number in range(12):
        told.tell(f"Moment {number} of a story that takes some more words than fit into half of a screen.")
    result = {"mean": 20.123, "min": -3.0, "max": 1013.25}
    aggregate = {
        "window": "temperature_5s",
        "key": "sensor-001",
        "start_ms": 0,
        "kind": "correction",
        "count": 12_345,
        "result": result,
    }
    told.tick(0.0, numbers._replace(taken_in=0, received=0), [])
    told.tick(now_s, numbers, [aggregate] * 20)
    return told


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (120, 40), (200, 60)])
@pytest.mark.parametrize("now_s", [0.5, 15.0, 42.0])
def test_it_fits_the_terminal(size: tuple[int, int], now_s: float) -> None:
    lines = drawn(*size, Screen(story(now_s))).splitlines()
    assert len(lines) <= size[1]
    assert max(map(len, lines)) <= size[0]
    screen = "\n".join(lines)
    assert "1,233,368" in screen
    assert "Moment 11" in screen
    assert "20.1" in screen
    assert "…" not in screen


def test_a_cut_line_is_visible_without_colours() -> None:
    assert "CUT" not in drawn(80, 24, Screen(story(5.0)))
    assert "CUT" in drawn(80, 24, Screen(story(15.0, NUMBERS._replace(line_up=False))))
    assert progress_line(story(15.0, NUMBERS._replace(line_up=False))).endswith("line CUT")


def test_rates_are_those_of_the_last_second() -> None:
    told = Story((Act(0.0, "all is well"),), 30.0)
    told.tick(0.0, NUMBERS._replace(taken_in=0, received=0), [])
    told.tick(0.5, NUMBERS._replace(taken_in=100, received=0), [])
    told.tick(2.0, NUMBERS._replace(taken_in=600, received=30), [])
    assert (list(told.rates_in), list(told.rates_out)) == ([300.0], [15.0])
    assert "in    300/s  out     15/s" in progress_line(told)


def test_the_balance_has_words_for_every_status() -> None:
    assert {status.name.lower() for status in Status} == demo_screen._STATES.keys()
