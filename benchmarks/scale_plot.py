"""Curves over logarithmic axes as SVG, two beside each other, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, BETWEEN, TOP = 330, 170, 44, 50, 34
_STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #57606a } .grid { stroke: #8b949e; stroke-opacity: .3 }
@media (prefers-color-scheme: dark) { text { fill: #adbac7 } }
</style>"""
_COLOUR = "#2f81f7"


class Curve(NamedTuple):
    """Microseconds over a number: topics, windows, bytes."""

    title: str
    points: Sequence[tuple[float, float]]


def drawn(curves: Sequence[Curve]) -> str:
    """Return the whole picture."""
    rows = math.ceil(len(curves) / 2)
    width, height = 2 * (WIDTH + LEFT) + BETWEEN, TOP + rows * (HEIGHT + BETWEEN)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">', _STYLE]
    for number, curve in enumerate(curves):
        left = LEFT + number % 2 * (WIDTH + LEFT + BETWEEN // 2)
        parts += _panel(curve, left, TOP + number // 2 * (HEIGHT + BETWEEN))
    return "\n".join([*parts, "</svg>\n"])


def _panel(curve: Curve, left: int, top: int) -> list[str]:
    """A zero on the x axis stands at its left end."""
    least = min(x for x, _ in curve.points if x) / 2
    first, last = math.log10(least), math.log10(max(x for x, _ in curve.points))
    low = math.floor(math.log10(min(y for _, y in curve.points)))
    high = math.ceil(math.log10(max(y for _, y in curve.points)))
    bottom = top + HEIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(max(x, least)) - first) / (last - first)
        return left + WIDTH * across, bottom - HEIGHT * (math.log10(y) - low) / (high - low)

    parts = [f'<text x="{left}" y="{top - 8}">{curve.title}</text>']
    for power in range(low, high + 1):
        y = place(1, 10**power)[1]
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{left + WIDTH}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10**power:g}</text>')
    for number, cost in curve.points:
        x, y = place(number, cost)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_short(number)}</text>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_COLOUR}"/>')
    line = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in curve.points)
    return [*parts, f'<polyline points="{line}" fill="none" stroke="{_COLOUR}" stroke-width="1.5"/>']


def _short(number: float) -> str:
    return f"{number / 1000:g}k" if number >= 1000 else f"{number:g}"
