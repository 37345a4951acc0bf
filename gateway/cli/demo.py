"""`gateway demo`: everything at work in one process, with an outage and, at the end, a balance."""

from __future__ import annotations

import json
import logging
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.live import Live

from gateway.cli.demo_screen import Act, Check, Screen, Story, balance, balance_checks, progress_line
from gateway.lab.demo_stage import Counted, DemoSpec, Numbers, Stage

_FRAME_S = 0.25
_LINE_S = 2.0  # between progress lines
_QUIET_S = 1.0  # for what is between two counters at the moment of looking
_DRAIN_TIMEOUT_S = 60.0
_LEAST_SECONDS = 6.0


class Show(Protocol):
    """Shows a story while it happens."""

    def refresh(self) -> None: ...


def demo(
    *,
    seconds: Annotated[
        float, typer.Option("--seconds", min=_LEAST_SECONDS, help="How long the sensors publish.")
    ] = 40.0,
    devices: Annotated[int, typer.Option("--devices", min=1, max=500, help="Number of sensors.")] = 20,
    rate: Annotated[
        float, typer.Option("--rate", min=1, max=1000, help="Messages per second, in total.")
    ] = 300.0,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Folder for buffer, received events and configuration.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the result, as JSON.")] = False,
) -> None:
    """Show everything at work: sensors, a broker, the gateway, and a cloud that is cut off for a while.

    It needs no broker, listens on this machine only, and leaves nothing behind.
    Exits with 0 when the balance at the end is right, else with 1.
    """
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise typer.BadParameter("give an empty folder, or a new one", param_hint="--keep")
    with _folder(keep) as folder, _logging_to(folder / "demo.log"), _interruptible() as interrupted:
        stage = Stage(DemoSpec(folder, devices, rate))
        performance = Performance(stage, seconds, interrupted)
        stage.start()
        try:
            with _show(performance.story, as_json) as show:
                performance.play(show)
        finally:
            stage.stop()
        if interrupted.is_set():
            typer.echo("Stopped before the end; nothing is left behind.", err=True)
            raise typer.Exit(1)
        _finish(stage.count(), performance.story, as_json, keep)


class Performance:
    """Plays the acts: all is well, the line is cut, the line is back, the end."""

    def __init__(self, stage: Stage, seconds: float, interrupted: threading.Event) -> None:
        acts = (
            Act(0.0, "all is well"),
            Act(seconds / 3, "the cloud is cut off"),
            Act(seconds * 2 / 3, "it is back"),
        )
        self.story = Story(acts, seconds)
        self._stage = stage
        self._seconds = seconds
        self._interrupted = interrupted
        self._cues: list[tuple[float, Callable[[], None]]] = [
            (0.0, self._open),
            (acts[1].from_s, self._cut),
            (acts[1].from_s + min(3.0, seconds / 6), self._reassure),
            (acts[2].from_s, self._mend),
            (seconds, self._silence),
        ]
        self._backlog_since_s: float | None = None
        self._results_told = False

    def play(self, show: Show) -> None:
        """Return when everything has drained, or time is up, or it is interrupted."""
        began_s = time.monotonic()
        quiet_since_s, before = 0.0, None
        while not self._interrupted.wait(_FRAME_S):
            now_s = time.monotonic() - began_s
            numbers = self._stage.numbers()
            self.story.tick(now_s, numbers, self._stage.dashboard.latest)
            while self._cues and self._cues[0][0] <= now_s:
                self._cues.pop(0)[1]()
            self._notice(numbers)
            show.refresh()
            if not (self._stage.fleet_finished and numbers.settled and numbers == before):
                quiet_since_s = now_s
            before = numbers
            if now_s - quiet_since_s > _QUIET_S or now_s > self._seconds * 2 + _DRAIN_TIMEOUT_S:
                break

    # --- cues

    def _open(self) -> None:
        spec = self._stage.spec
        self.story.tell(f"{spec.devices} sensors begin to publish, {spec.rate_per_s:,.0f} messages a second.")
        self.story.tell(f"To watch in a browser until the demo ends: http://{self._stage.page}/")

    def _cut(self) -> None:
        self._stage.cut_line()
        self.story.tell("The line to the cloud is cut. The sensors do not notice.")

    def _reassure(self) -> None:
        self.story.tell("Events wait in the buffer on disk; windows and dashboards go on.")

    def _mend(self) -> None:
        numbers = self._stage.numbers()
        self._stage.mend_line()
        self._backlog_since_s = self.story.now_s
        self.story.tell(
            f"The line is back, {numbers.pending:,} events wait. The uplink is narrow on purpose."
        )

    def _silence(self) -> None:
        self._stage.silence_fleet()
        self.story.tell("The sensors fall silent; the last windows close, and the buffer drains.")

    def _notice(self, numbers: Numbers) -> None:
        """Tell of events whose time is not fixed: first results, and the end of the backlog."""
        if numbers.results and not self._results_told:
            self._results_told = True
            self.story.tell("The first windows close; their results appear on the local broker.")
        backlog_gone = numbers.pending + numbers.syncing < self._stage.spec.rate_per_s
        if self._backlog_since_s is not None and numbers.bridge_connected and backlog_gone:
            took_s = self.story.now_s - self._backlog_since_s
            self._backlog_since_s = None
            self.story.tell(f"The backlog is in the cloud, {took_s:.1f} s after the line came back.")


# --- showing


class _Silent:
    def refresh(self) -> None:
        """Do nothing: with --json only the result is printed."""


class _Lines:
    """Prints the timeline and a line of numbers now and then; for pipes and dumb terminals."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._told = 0
        self._next_s = _LINE_S

    def refresh(self) -> None:
        for at_s, text in self._story.timeline[self._told :]:
            typer.echo(f"{at_s:5.0f} s  {text}")
        self._told = len(self._story.timeline)
        if self._story.now_s >= self._next_s:
            self._next_s += _LINE_S
            typer.echo(progress_line(self._story))


@contextmanager
def _show(story: Story, as_json: bool) -> Iterator[Show]:
    console = Console()
    if as_json:
        yield _Silent()
    elif console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf"):
        with Live(Screen(story), console=console, screen=True, auto_refresh=False) as live:
            yield live
        for at_s, text in story.timeline:
            typer.echo(f"{at_s:5.0f} s  {text}")
    else:
        lines = _Lines(story)
        yield lines
        lines.refresh()


def _finish(counted: Counted, story: Story, as_json: bool, keep: Path | None) -> None:
    checks = balance_checks(counted)
    balanced = all(check.ok for check in checks) and not counted.buffer.problems
    if as_json:
        typer.echo(json.dumps(_result(counted, checks, story, balanced)))
    else:
        typer.echo()
        Console().print(balance(counted, checks))
        kept = "gateway.yaml (what it ran), data/events.db, received.ndjson, demo.log"
        typer.echo(f"Kept in {keep}: {kept}." if keep else "To look into its files: gateway demo --keep DIR")
    if not balanced:
        raise typer.Exit(1)


def _result(counted: Counted, checks: list[Check], story: Story, balanced: bool) -> dict[str, object]:
    return {
        "balanced": balanced,
        "checks": [check._asdict() | {"ok": check.ok} for check in checks],
        "problems": counted.buffer.problems,
        "published": counted.published,
        "acknowledged": counted.acknowledged,
        "messages": counted.buffer.messages,
        "appended": counted.buffer.appended,
        "statuses": counted.buffer.statuses,
        "received": counted.received,
        "duplicates": counted.duplicates,
        "timeline": [{"s": round(at_s, 1), "text": text} for at_s, text in story.timeline],
    }


# --- surroundings


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="gateway-demo-") as folder:
        yield Path(folder)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Set by Ctrl-C or SIGTERM; a second Ctrl-C ends the process the hard way."""
    interrupted = threading.Event()

    def stop(number: int, _frame: object) -> None:
        interrupted.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Log lines would tear the screen, and the outage is announced there anyway."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
