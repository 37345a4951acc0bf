"""The devices on the screen of `gateway top`: a table that the gateway sorts, a screenful at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

SORTS = ("name", "heard", "rate", "messages", "misses", "unreadable")
ONLY = ("all", "silent", "clock", "misses", "unreadable", "alarms")
_FIXED_ROWS = 4  # title, its rule, header, footer
_NARROW = 100
_SECOND_MS, _MINUTE_MS, _HOUR_MS, _DAY_MS = 1000, 60_000, 3_600_000, 86_400_000


def rows_of(height: int) -> int:
    """Return how many devices a terminal of that height has room for."""
    return max(height - _FIXED_ROWS, 1)


class TopDevices:
    """Draws what `/api/devices/table` gave: `sort`, `only` and `first` are what it was asked."""

    def __init__(self, found: Mapping[str, Any], sort: str, only: str, first: int, problem: str = "") -> None:
        self._found = found
        self._sort = sort
        self._only = only
        self._first = first
        self._problem = problem

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        devices, width = self._found["devices"], options.max_width
        rows = devices[: rows_of(options.height or console.height)]
        yield self._title(width)
        yield _table(rows, self._found["time_ms"], is_wide=width >= _NARROW)
        last = self._first + len(rows)
        counted = f"{self._first + 1 if rows else 0:,} to {last:,} of {self._found['found']:,}"
        yield Text(self._problem or counted, style="bold red" if self._problem else "dim")

    def _title(self, width: int) -> Text:
        chosen = "" if self._only == "all" else f", only {self._only}"
        left = Text.assemble(("devices", "bold"), f"  by {self._sort}{chosen}")
        right = Text("s sort, o only, j k space b scroll, d back, q quits", style="dim")
        if left.cell_len + right.cell_len >= width:
            return left
        return Text.assemble(left, " " * (width - left.cell_len - right.cell_len), right)


def _table(devices: Sequence[Mapping[str, Any]], now_ms: int, *, is_wide: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim")
    for name, ratio in (("device", 3), ("values", 5)):
        table.add_column(name, no_wrap=True, ratio=ratio, overflow="ellipsis")
    for name in ("heard", "every", *(("messages",) if is_wide else ()), "wrong"):
        table.add_column(name, justify="right", no_wrap=True)
    for device in devices:
        wrong = _wrong(device)
        cells = [
            Text(device["name"], style="yellow" if wrong else ""),
            ", ".join(map(_value, device["values"])),
            f"{span(now_ms - device['last_ms'])} ago",
            "–" if device["interval_ms"] is None else span(device["interval_ms"]),
            *((f"{device['messages']:,}",) if is_wide else ()),
            Text(wrong, style="yellow"),
        ]
        table.add_row(*cells)
    return table


def _value(value: Mapping[str, Any]) -> str:
    told = value["value"]
    number = f"{told:.5g}" if isinstance(told, float) else str(told)
    return f"{value['field']} {number}{' ' + value['unit'] if value.get('unit') else ''}"


def _wrong(device: Mapping[str, Any]) -> str:
    """The first thing that is wrong with a device, in a word or two."""
    if device.get("alarms"):
        return f"{device['alarms']} alarm{'s' if device['alarms'] > 1 else ''}"
    if device["silent"]:
        return "silent"
    if device["clock_off_ms"] is not None:
        return f"clock {'+' if device['clock_off_ms'] > 0 else '-'}{span(abs(device['clock_off_ms']))}"
    if device["undecoded"]:
        return f"{device['undecoded']:,} unread"
    return f"{device['missed']:,} misses" if device["missed"] else ""


def span(ms: float) -> str:
    """A duration in two or three letters: `12 s`, `5 min`, `3 h`, `9 d`."""
    for unit_ms, name in ((_DAY_MS, "d"), (_HOUR_MS, "h"), (_MINUTE_MS, "min")):
        if ms >= unit_ms:
            return f"{ms / unit_ms:.0f} {name}"
    return f"{max(ms, 0) / _SECOND_MS:.0f} s"
