"""The page of `gateway fleet status --page`: one file without scripts, for any web server or a browser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from gateway.cli.fleet_screen import COLUMNS, NUMBERS, row, summary

if TYPE_CHECKING:
    from gateway.fleet.board import GatewayState

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #b3261e; --dim: #555; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --dim: #aaa; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; }
p { margin: .3rem 0 1rem; color: var(--dim); }
p.bad, td.bad { color: var(--bad); font-weight: 600; }
div { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { position: sticky; top: 0; background: Canvas; }
td:last-child { white-space: normal; min-width: 14rem; }
.number { text-align: right; }
"""


def page(states: Sequence[GatewayState], now_ms: int, every_s: float | None, problem: str = "") -> str:
    """Return the page as of `now_ms`; with `every_s` the browser loads it again so often."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    refresh = "" if every_s is None else f'<meta http-equiv="refresh" content="{max(1, round(every_s))}">'
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Fleet</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"{refresh}<style>{_STYLE}</style></head><body>",
            f"<h1>{escape(summary(states, now_ms))}</h1><p>as of {now}</p>",
            *([f'<p class="bad">{escape(problem)}</p>'] if problem else ()),
            "<div><table><thead><tr>",
            *(f'<th scope="col"{_side(name)}>{name}</th>' for name in COLUMNS),
            "</tr></thead><tbody>",
            *(_row(one) for one in states),
            "</tbody></table></div></body></html>\n",
        )
    )


def _row(one: GatewayState) -> str:
    return f"<tr>{''.join(_cells(one))}</tr>"


def _cells(one: GatewayState) -> Iterator[str]:
    *cells, alarms = row(one)
    for name, cell in zip(COLUMNS, cells, strict=False):
        yield f"<td{_side(name)}>{escape(cell)}</td>"
    yield f'<td class="bad">{escape(alarms)}</td>'


def _side(name: str) -> str:
    return ' class="number"' if name in NUMBERS else ""
