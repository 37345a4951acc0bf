"""Display of the demo: live on a terminal, as lines elsewhere, and the balance at the end."""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gateway.lab.demo_stage import Counted, Numbers

_RATE_OVER_S = 1.0
_SPARKS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SPARK_WIDTH = 16
_WIDE = 110  # columns from which two tables fit side by side
_FRAME_ROWS = 13  # of everything but results and timeline, and a free row below
_RESULTS_WIDTH = 66
_MOST_ROWS = 20


class Act(NamedTuple):
    """A part of the demo: its start and its title."""

    from_s: float
    title: str


class Check(NamedTuple):
    """Two numbers that were counted independently and must be equal."""

    what: str
    left: int
    right: int

    @property
    def ok(self) -> bool:
        return self.left == self.right

    @property
    def verdict(self) -> str:
        """`ok`, or by how much it is not."""
        if self.ok:
            return "ok"
        difference = self.left - self.right
        return f"{-difference:,} MISSING" if difference < 0 else f"{difference:,} TOO MANY"


class Story:
    """The events so far, for display. Times are seconds since the fleet began."""

    def __init__(self, acts: tuple[Act, ...], seconds: float) -> None:
        self.acts = acts
        self.seconds = seconds
        self.now_s = 0.0
        self.numbers: Numbers | None = None
        self.aggregates: list[dict[str, Any]] = []
        self.timeline: list[tuple[float, str]] = []
        self.rates_in: deque[float] = deque(maxlen=_SPARK_WIDTH)
        self.rates_out: deque[float] = deque(maxlen=_SPARK_WIDTH)
        self._rated: tuple[float, Numbers] | None = None

    def tell(self, text: str) -> None:
        self.timeline.append((self.now_s, text))

    def tick(self, now_s: float, numbers: Numbers, aggregates: Iterable[dict[str, Any]]) -> None:
        self.now_s, self.numbers, self.aggregates = now_s, numbers, list(aggregates)
        if self._rated is None:
            self._rated = now_s, numbers
        since_s = now_s - self._rated[0]
        if since_s >= _RATE_OVER_S:
            before = self._rated[1]
            self.rates_in.append((numbers.taken_in - before.taken_in) / since_s)
            self.rates_out.append((numbers.received - before.received) / since_s)
            self._rated = now_s, numbers


class Screen:
    """Draws a Story; rich asks it anew for every frame, with the terminal's present size."""

    def __init__(self, story: Story) -> None:
        self._story = story

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        story, numbers = self._story, self._story.numbers
        width, height = options.max_width, options.height or console.height
        yield _title(story, width)
        yield _acts(story, width)
        if numbers is None:
            return
        yield _flow(story, numbers)
        yield _bars(numbers, width)
        room = max(height - _FRAME_ROWS, 8)
        if width >= _WIDE:
            both = Table.grid(expand=True)
            both.add_column(width=_RESULTS_WIDTH)
            both.add_column(ratio=1)
            rows = min(room - 2, _MOST_ROWS)
            both.add_row(_results(story, rows), _timeline(story, rows, width - _RESULTS_WIDTH - 4))
            yield both
        else:
            rows = min((room - 4) // 2, _MOST_ROWS)
            yield _results(story, room - 4 - rows)
            yield _timeline(story, rows, width - 4)


def progress_line(story: Story) -> str:
    """Return one line of progress for logs and pipes."""
    numbers = story.numbers
    if numbers is None:
        return "starting"
    rate_in = story.rates_in[-1] if story.rates_in else 0.0
    rate_out = story.rates_out[-1] if story.rates_out else 0.0
    line = "up" if numbers.line_up else "CUT"
    return (
        f"{story.now_s:5.0f} s  in {rate_in:6,.0f}/s  out {rate_out:6,.0f}/s  "
        f"waiting {numbers.pending + numbers.syncing:7,}  sent {numbers.synced:8,}  line {line}"
    )


def balance_checks(counted: Counted) -> list[Check]:
    """Return the checks of the balance: pairs that are equal when nothing was lost or doubled."""
    messages, appended, statuses = counted.buffer.messages, counted.buffer.appended, counted.buffer.statuses
    taken_in = sum(messages.values())
    return [
        Check("acknowledged to the sensors = published by them", counted.acknowledged, counted.published),
        Check("taken in by the gateway = acknowledged to the sensors", taken_in, counted.acknowledged),
        Check(
            "raw events stored = taken in", appended.get("raw", 0), taken_in - messages.get("duplicate", 0)
        ),
        Check("events in the buffer = all that were stored", sum(statuses.values()), sum(appended.values())),
        Check("sent to the cloud = events in the buffer", statuses.get("synced", 0), sum(statuses.values())),
        *(
            Check(
                f"{_KINDS[kind]} in the cloud = stored", counted.received.get(kind, 0), appended.get(kind, 0)
            )
            for kind in sorted({*counted.received, *appended}, reverse=True)
        ),
        Check("sequence numbers missing in the cloud", counted.missing, 0),
    ]


_KINDS = {"raw": "raw events", "aggregate": "window results", "audit": "late reports", "alert": "alerts"}


def balance(counted: Counted, checks: list[Check]) -> RenderableType:
    """The account at the end, for people."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(justify="right")
    rows.add_column(justify="right")
    rows.add_column()
    for check in checks:
        outcome = Text(check.verdict, style="green" if check.ok else "bold red")
        rows.add_row(check.what, f"{check.left:,}", f"{check.right:,}", outcome)
    statuses = ", ".join(f"{count:,} {_STATES[name]}" for name, count in counted.buffer.statuses.items())
    notes = [f"in the buffer: {statuses}"]
    if counted.duplicates:
        notes.append(f"{counted.duplicates:,} events came to the cloud twice and were left out there")
    good = all(check.ok for check in checks) and not counted.buffer.problems
    verdict = "It balances: every message arrived, each once." if good else "It does NOT balance."
    return Panel(
        Group(
            rows,
            Text(),
            *(Text(note, style="dim") for note in notes),
            *(Text(problem, style="bold red") for problem in counted.buffer.problems),
            Text(verdict, style="bold green" if good else "bold red"),
        ),
        title="the balance, counted anew at both ends",
        title_align="left",
        border_style="green" if good else "red",
        expand=False,
    )


_STATES = {
    "pending": "waiting",
    "syncing": "on their way",
    "synced": "sent",
    "failed": "given up",
    "corrupt": "corrupt",
    "kept": "kept at the edge",
}


# --- parts of the screen


def _title(story: Story, width: int) -> RenderableType:
    left = Text.assemble((" MQTT edge gateway", "bold"), "  demo")
    now = min(story.now_s, story.seconds)
    extra = story.now_s - story.seconds
    clock = f"{now:.0f} of {story.seconds:.0f} s" + (f" + {extra:.0f} s" if extra >= 1 else "")
    right = Text(f"{clock}   Ctrl-C stops ", style="dim")
    gap = max(width - left.cell_len - right.cell_len, 1)
    return Text.assemble(left, " " * gap, right)


def _acts(story: Story, width: int) -> RenderableType:
    """A bar in parts, one per act, filled up to now."""
    line = Text(" ")
    usable = width - 2
    ends = [act.from_s for act in story.acts[1:]] + [story.seconds]
    for number, (act, end_s) in enumerate(zip(story.acts, ends, strict=True)):
        first = round(usable * act.from_s / story.seconds)
        last = round(usable * end_s / story.seconds)
        label = f" {act.title} ".center(last - first - 1, "─")[: max(last - first - 1, 0)]
        filled = round(usable * min(story.now_s / story.seconds, 1.0)) - first
        begun = act.from_s <= story.now_s
        style = ("bold white on red" if number == 1 else "bold white on blue") if begun else "dim"
        line.append(label[: max(filled, 0)], style=style)
        line.append(label[max(filled, 0) :], style="bold" if begun and story.now_s < end_s else "dim")
        line.append(" ")
    return line


def _flow(story: Story, numbers: Numbers) -> RenderableType:
    sensors = _counts(published=numbers.published, confirmed=numbers.acknowledged)
    stored = numbers.taken_in + numbers.results
    gateway = _counts(**{"on disk": stored, "results": numbers.results, "windows": numbers.open_windows})
    cloud = _counts(**{"received": numbers.received, "came twice": numbers.duplicates})
    line = Text("\n\n━━▶\nup", style="green") if numbers.line_up else Text("\n\n━╳━\nCUT", style="bold red")
    flow = Table.grid(expand=True)
    for width in (None, 5, None, 5, None):
        flow.add_column(
            ratio=1 if width is None else None, width=width, justify="center" if width else "left"
        )
    flow.add_row(
        _panel("sensors", sensors, _rate(story.rates_in, "blue")),
        Text("\n\n━━▶", style="blue"),
        _panel("gateway", gateway),
        line,
        _panel("cloud", cloud, _rate(story.rates_out, "green")),
    )
    return flow


def _counts(**counts: int) -> RenderableType:
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    for name, count in counts.items():
        grid.add_row(name, Text(f"{count:,}", style="bold"))
    return grid


def _panel(title: str, *parts: RenderableType, height: int | None = None) -> Panel:
    return Panel(
        Group(*parts), title=title, title_align="left", padding=(0, 1), border_style="dim", height=height
    )


def _rate(rates: Iterable[float], style: str) -> Text:
    values = list(rates)
    top = max(values, default=0.0) or 1.0
    sparks = "".join(_SPARKS[round(value / top * 8)] for value in values[-8:])
    return Text.assemble(f"{values[-1] if values else 0:,.0f}/s ", (sparks, style), no_wrap=True)


def _bars(numbers: Numbers, width: int) -> RenderableType:
    states = [
        ("waiting", numbers.pending, "yellow"),
        ("on its way", numbers.syncing, "cyan"),
        ("sent", numbers.synced, "green"),
    ]
    if numbers.failed:
        states.append(("given up", numbers.failed, "red"))
    total = max(sum(count for _, count, _ in states), 1)
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=10, no_wrap=True)
    grid.add_column(ratio=1, no_wrap=True)
    grid.add_column(justify="right", width=9, no_wrap=True)
    for name, count, style in states:
        grid.add_row(name, Text(_bar(count / total, width - 28), style=style), f"{count:,}")
    return _panel("buffer on disk", grid)


def _bar(fraction: float, width: int) -> str:
    eighths = max(round(fraction * width * 8), 1 if fraction > 0 else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _results(story: Story, rows: int) -> RenderableType:
    table = Table.grid(padding=(0, 1), expand=True)
    for name in _COLUMNS:
        table.add_column(justify="left" if name in ("window", "key", "from") else "right", no_wrap=True)
    table.add_row(*(Text(name, style="dim") for name in _COLUMNS))
    for aggregate in reversed(story.aggregates[-(rows - 1) :]):
        table.add_row(*_result_cells(aggregate))
    return _panel("window results on the local broker (* corrected)", table, height=rows + 2)


_COLUMNS = ("window", "key", "from", "events", "mean", "min", "max")


def _result_cells(aggregate: Mapping[str, Any]) -> list[str]:
    result = aggregate["result"]
    start = datetime.fromtimestamp(aggregate["start_ms"] / 1000, UTC)
    revised = "" if aggregate["kind"] == "on_time" else "*"
    values = [f"{result[name]:.1f}" for name in ("mean", "min", "max")]
    return [
        aggregate["window"],
        aggregate["key"] or "all",
        f"{start:%H:%M:%S}{revised}",
        f"{aggregate['count']:,}",
        *values,
    ]


def _timeline(story: Story, rows: int, width: int) -> RenderableType:
    lines: list[tuple[str, str]] = []
    for at_s, text in story.timeline:
        first, *more = textwrap.wrap(text, width - 6)
        lines += [(f"{at_s:.0f} s", first), *(("", each) for each in more)]
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(justify="right", no_wrap=True, style="dim", width=5)
    grid.add_column(ratio=1, no_wrap=True)
    for cells in lines[-rows:]:
        grid.add_row(*cells)
    return _panel("what is happening", grid, height=rows + 2)
