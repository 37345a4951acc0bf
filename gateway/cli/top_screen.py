"""The screen of `gateway top`, for terminals of 80 by 24 and larger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from gateway.core.units import format_bytes

_FIXED_ROWS = 15  # of everything but windows, devices and alerts
_STATUS = {"ok": "bold green", "degraded": "bold yellow", "failing": "bold red"}
_BY = {"keys": "keys", "results": "emitted", "late": "late_dropped", "behind": "lag_ms"}
WINDOW_SORTS = ("as configured", *_BY)
_COURSE = {
    "local": "kept here: no cloud is configured",
    "live": "the cloud keeps up",
    "outage": "the line is down, events wait on disk",
    "draining": "the backlog drains",
    "growing": "more comes in than goes out",
}


class Top:
    """Draws the state as `/api/state` gives it; `problem` says why it is not up to date,
    `first` from which window on."""

    def __init__(
        self, state: dict[str, Any], problem: str = "", first: int = 0, sort: str = "as configured"
    ) -> None:
        self._sort = sort
        self._first = first
        self._state = state
        self._problem = problem

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        state, width = self._state, options.max_width
        room = max((options.height or console.height) - _FIXED_ROWS, 6)
        alarms = [*_alarms(state.get("alarms") or {"on": [], "counts": {}}, max(room // 4, 1))]
        room = max(room - len(alarms), 6)
        yield _title(state["gateway"], self._problem, width)
        for problem in [*state["gateway"]["problems"][:2], *state.get("unmatched", [])[:1]]:
            yield Text(f"! {problem}", style="yellow", no_wrap=True, overflow="ellipsis")
        yield Text()
        yield _numbers(state)
        yield _course(state["buffer"])
        yield _links(state["links"])
        yield from _pressure(state.get("sections", {}))
        yield from alarms
        yield Text()
        alerts = min(len(state["alerts"]), max(room // 2 - 2, 1))
        # What few alerts leave belongs to the windows, and what these leave to the devices.
        rows = room - 2 - alerts
        windows = _sorted(state["windows"], self._sort)
        first = max(min(self._first, len(windows) - rows), 0)
        yield _windows(windows[first:], rows, self._sort)
        yield Text()
        yield from _devices(state["devices"])
        yield from _troubled(state["devices"], rows - len(windows))
        yield from _alerts(state["alerts"], alerts)


def _sorted(windows: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """The windows, those with most of it first."""
    if sort not in _BY:
        return windows
    return sorted(windows, key=lambda window: -(window[_BY[sort]] or 0))


def _title(about: dict[str, Any], problem: str, width: int) -> RenderableType:
    status = "no answer" if problem else about["status"]
    style = "bold red" if problem else _STATUS[status]
    left = Text.assemble((about["id"], "bold"), "  ", (status, style), f"  up {duration(about['uptime_s'])}")
    right = Text("d devices, s sort, j k scroll, q quits", style="dim")
    return Text.assemble(left, " " * max(width - left.cell_len - right.cell_len, 1), right)


def _numbers(state: dict[str, Any]) -> RenderableType:
    rates, buffer = state["rates"], state["buffer"]
    statuses = buffer["statuses"]
    grid = Table.grid(padding=(0, 2), expand=True)
    for _ in range(3):
        grid.add_column(no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
    cells = [
        ("taken in", f"{rates['in_per_s']:,.0f} /s"),
        ("waiting", f"{statuses['pending']:,}"),
        ("on disk", format_bytes(buffer["used_bytes"])),
        ("to the cloud", f"{rates['out_per_s']:,.0f} /s"),
        ("on their way", f"{statuses['syncing']:,}"),
        ("of", format_bytes(buffer["max_bytes"])),
        ("results", f"{rates['results_per_s']:,.1f} /s"),
        _sent(statuses["synced"], buffer.get("unconfirmed")),
        ("given up", f"{statuses['failed'] + statuses['corrupt']:,}"),
    ]
    for row in range(3):
        pairs = cells[3 * row : 3 * row + 3]
        grid.add_row(*(part for name, value in pairs for part in (Text(name, style="dim"), Text(value))))
    return grid


def _sent(synced: int, unconfirmed: int | None) -> tuple[str, str]:
    """Return label and number of events sent; with `confirm: receiver`, also how many wait for a receiver."""
    if unconfirmed is None:
        return "sent", f"{synced:,}"
    return "sent, unconfirmed", f"{synced:,}, {unconfirmed:,}"


def _course(buffer: dict[str, Any]) -> RenderableType:
    forecast = buffer["forecast"]
    text = _COURSE[forecast["state"]]
    if forecast["empty_in_s"] is not None:
        text += f": about {duration(forecast['empty_in_s'])} left"
    if forecast["full_in_s"] is not None:
        text += f"; room for {duration(forecast['full_in_s'])}"
    style = "yellow" if forecast["state"] in ("outage", "growing") else "green"
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _links(links: Sequence[dict[str, Any]]) -> RenderableType:
    line = Text(no_wrap=True, overflow="ellipsis")
    for link in links:
        line.append("● " if link["connected"] else "○ ", style="green" if link["connected"] else "red")
        line.append(f"{link['name']}  ")
        if not link["connected"]:
            line.append(f"{link['last_error'] or 'not connected'}  ", style="yellow")
    return line


def _pressure(sections: dict[str, Any]) -> RenderResult:
    """Yield a line while the gateway sends backpressure."""
    told = sections.get("backpressure") or {}
    if told.get("action", "NONE") != "NONE":
        why = ", ".join(told["reasons"])
        text = f"backpressure: {told['action'].lower().replace('_', ' ')}; too much: {why}"
        yield Text(text, style="yellow", no_wrap=True, overflow="ellipsis")


def _windows(windows: Sequence[dict[str, Any]], rows: int, sort: str) -> RenderableType:
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim")
    for name in ("window", "keys", "open", "results", "late", "behind"):
        table.add_column(
            f"{name} ▾" if name == sort else name,
            justify="left" if name == "window" else "right",
            no_wrap=True,
            ratio=2 if name == "window" else 1,
        )
    shown = windows if len(windows) <= rows else windows[: rows - 1]
    for window in shown:
        lag = "–" if window["lag_ms"] is None else duration(window["lag_ms"] / 1000)
        names = ("keys", "open_windows", "emitted", "late_dropped")
        table.add_row(window["name"], *(f"{window[name]:,}" for name in names), lag)
    if len(shown) < len(windows):
        table.add_row(Text(f"and {len(windows) - len(shown)} more", style="dim"))
    return table


def _devices(devices: dict[str, Any]) -> RenderResult:
    line = Text(f"devices {devices['known']:,}", no_wrap=True, overflow="ellipsis")
    for name, text in (("silent", "silent"), ("wrong_clock", "clock wrong"), ("unreadable", "unreadable")):
        if devices[f"{name}_count"]:
            names = ", ".join(device["name"] for device in devices[name][:3])
            line.append(f"  {text} {devices[f'{name}_count']:,} ", style="yellow")
            line.append(f"({names})", style="dim")
    yield line


def _troubled(devices: dict[str, Any], rows: int) -> RenderResult:
    """Each device with something wrong on a line, as far as there is room."""
    for name, what in islice(_troubles(devices), max(rows, 0)):
        yield Text(f"  {name}  {what}", style="dim", no_wrap=True, overflow="ellipsis")


def _troubles(devices: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for each in devices["silent"]:
        yield each["name"], "silent"
    for each in devices["wrong_clock"]:
        yield each["name"], f"clock off by {each['offset_ms'] / 1000:.1f} s"
    for each in devices["unreadable"]:
        yield each["name"], f"{each['undecoded']:,} unreadable"


def _alarms(alarms: dict[str, Any], rows: int) -> Iterator[RenderableType]:
    """Yield the alarms that are on, the urgent ones first, on at most `rows` lines."""
    on = sum(alarms["counts"].get(state, 0) for state in ("active", "acknowledged"))
    shown = rows if on <= rows else rows - 1
    for alarm in alarms["on"][:shown]:
        where = " / ".join(filter(None, (alarm["window"], alarm["key"])))
        seen = f", seen by {alarm['acknowledged_by']}" if alarm["state"] == "acknowledged" else ""
        measured = _measured({alarm["value_name"] or "value": alarm["value"], "limit": alarm["limit"]})
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"alarm {where}", style="bold red" if not seen else "yellow")
        yield line.append(f"  since {_clock(alarm['since_ms'])}{seen}  {measured}", style="dim")
    if on > shown:
        yield Text(f"and {on - shown:,} more alarms: gateway alarms list", style="dim")


def _alerts(alerts: Sequence[dict[str, Any]], rows: int) -> RenderResult:
    if alerts:
        yield Text("alerts, newest first", style="dim")
    for alert in alerts[:rows]:
        yield _alert(alert)


def _alert(alert: dict[str, Any]) -> Text:
    result = alert.get("result") or {}
    name = alert.get("alert") or result.get("alert") or "alert"
    where = " / ".join(filter(None, (alert.get("window"), alert.get("key"))))
    said = alert.get("message") or result.get("message") or _measured(result)
    text = "  ".join(filter(None, (where, said)))
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{_time(alert)}  ", style="dim").append(str(name), style="bold yellow").append(f"  {text}")
    return line


def _time(alert: dict[str, Any]) -> str:
    at_ms = alert.get("time_ms") or alert.get("end_ms")
    return _clock(at_ms) if at_ms else "--:--:--"


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%H:%M:%S")


def _measured(result: dict[str, Any]) -> str:
    """The numbers of a result, four digits of each."""
    numbers = ((k, v) for k, v in result.items() if isinstance(v, int | float) and not isinstance(v, bool))
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers)


def duration(seconds: float) -> str:
    """Two parts at most: `4.2 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    rest, words = round(seconds), list[str]()
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        number, rest = divmod(rest, size)
        if number and len(words) < 2:
            words.append(f"{number} {unit}")
    return " ".join(words)
