"""The table of `gateway fleet status`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.fleet.board import GatewayState

_PIPED = 200  # columns where there is no terminal that says how wide it is
COLUMNS = (
    *("gateway", "state", "complete until", "open", "lag", "empty in", "clock", "version"),
    *("configuration", "alarms"),
)
NUMBERS = ("open", "lag", "empty in")


def show(states: Sequence[GatewayState], now_ms: int) -> None:
    """Print a row for each gateway, and a line that sums up."""
    from rich.console import Console  # noqa: PLC0415 - `--help` needs neither
    from rich.table import Table  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPED)
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=name != "alarms")
    for one in states:
        cells = row(one)
        table.add_row(*map(Text, cells[:-1]), Text(cells[-1], "bold red"))
    console.print(table)
    console.print(summary(states, now_ms), markup=False, highlight=False)


def row(one: GatewayState) -> tuple[str, ...]:
    """The cells of a gateway."""
    return (
        one.gateway,
        one.state or "?",
        "?" if one.complete_until_ms is None else _time(one.complete_until_ms),
        "?" if one.open is None else f"{one.open:,}",
        "?" if one.lag_ms is None else _span(one.lag_ms / 1000),
        "" if one.empty_in_s == 0 else "?" if one.empty_in_s is None else _span(one.empty_in_s),
        _clock(one),
        one.version or "?",
        one.configuration or "?",
        ", ".join(one.alarms),
    )


def _clock(one: GatewayState) -> str:
    offset = "" if one.clock_ms is None else f"{one.clock_ms / 1000:+.1f} s"
    return " ".join(filter(None, (one.clock, offset))) or "?"


def summary(states: Sequence[GatewayState], now_ms: int) -> str:
    """Return one line about all gateways."""
    if not states:
        return "no gateway has left a status on this broker"
    alarms = sum(bool(one.alarms) for one in states)
    unknown = sum(one.told_ms is None for one in states)
    known = [one.complete_until_ms for one in states]
    until = "not complete" if None in known else f"complete until {_time(min(filter(None, known)))}"
    missing = f", {unknown} of which nothing is known" if unknown else ""
    return f"{len(states)} gateways, {alarms} with alarms{missing}; {until}"


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
