"""A small plot as SVG: panels below each other over one time axis, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, PANEL_HEIGHT, LEFT, TOP, RIGHT, BETWEEN = 760, 170, 52, 34, 16, 46
COLOURS = ("#2f81f7", "#d9730d", "#3f9c5a")
_STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #57606a } .grid { stroke: #8b949e; stroke-opacity: .3 }
@media (prefers-color-scheme: dark) { text { fill: #adbac7 } }
</style>"""


class Line(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]


class Panel(NamedTuple):
    title: str
    lines: Sequence[Line]


def drawn(panels: Sequence[Panel], below: str, tick: int = 4) -> str:
    """The whole picture; every `tick` of the time axis has its number."""
    right = max(x for panel in panels for line in panel.lines for x, _ in line.points)
    height = TOP + len(panels) * (PANEL_HEIGHT + BETWEEN) + 6
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">', _STYLE]
    parts += _legend(panels[0].lines)
    for number, panel in enumerate(panels):
        parts += _panel(panel, TOP + number * (PANEL_HEIGHT + BETWEEN), right, tick)
    parts.append(f'<text x="{LEFT}" y="{height - 6}">{below}</text></svg>\n')
    return "\n".join(parts)


def _legend(lines: Sequence[Line]) -> list[str]:
    return [
        f'<text x="{WIDTH - RIGHT - 150 * (len(lines) - at)}" y="14" style="fill:{colour}">{line.name}</text>'
        for at, (line, colour) in enumerate(zip(lines, COLOURS, strict=False))
    ]


def _panel(panel: Panel, top: int, right: float, tick: int) -> list[str]:
    step = _round_step(max(y for line in panel.lines for _, y in line.points) / 4)
    highest = step * math.ceil(max(y for line in panel.lines for _, y in line.points) / step)
    bottom, width = top + PANEL_HEIGHT, WIDTH - LEFT - RIGHT

    def place(x: float, y: float) -> str:
        return f"{LEFT + width * x / right:.1f},{bottom - PANEL_HEIGHT * y / highest:.1f}"

    parts = [f'<text x="{LEFT}" y="{top - 8}">{panel.title}</text>']
    for value in range(round(highest / step) + 1):
        y = bottom - PANEL_HEIGHT * value * step / highest
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value * step:g}</text>')
    for hour in range(0, math.floor(right) + 1, tick):
        x = LEFT + width * hour / right
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{hour}</text>')
    for line, colour in zip(panel.lines, COLOURS, strict=False):
        points = " ".join(place(x, y) for x, y in line.points)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return parts


def _round_step(at_least: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= at_least)
