"""Report of `gateway replay --what-if`: differences by window, and the settings that the past suggests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import orjson

from gateway.pipeline.lateness import Lateness
from gateway.pipeline.limits import Limits
from gateway.pipeline.rehearsal import ResultChange, WindowDifference

_LABELS = {
    "results": "results",
    "readings": "readings taken",
    "dropped_readings": "readings dropped",
    "plugin_errors": "plugin errors",
    "corrections": "corrections",
    "alarms": "alarms raised",
    "messages": "messages sent",
    "bytes": "bytes sent",
}
_SHOWN_CHARS = 40


def what_if_json(differences: Sequence[WindowDifference], messages: int) -> str:
    """Return the report for `--json`."""
    found = {"messages": messages, "windows": [one.fields() for one in differences]}
    return orjson.dumps(found, option=orjson.OPT_INDENT_2).decode()


def what_if_text(differences: Sequence[WindowDifference], messages: int) -> str:
    """Return the report for people."""
    lines = [f"{messages:,} messages through both configurations"]
    for one in differences:
        lines += ["", one.window, *_window_lines(one)]
    return "\n".join(lines)


def _window_lines(one: WindowDifference) -> Iterator[str]:
    if not one.differs:
        yield f"  the same {one.numbers['results'][0]:,} results"
    else:
        yield f"  results: {one.added:,} added, {one.gone:,} gone, {one.changed:,} changed"
        for name, (old, new) in one.numbers.items():
            if old or new:
                yield f"  {_LABELS[name]:<17} {old:>12,} → {new:>12,}{_share(old, new)}"
        if one.largest:
            yield "  largest changes:"
            yield from (f"    {_change(each)}" for each in one.largest)
    if one.lateness is not None and one.lateness.readings:
        yield from _advice(one.lateness)
    if one.limits is not None and one.limits.values:
        yield from _limit_advice(one.limits)


def _share(old: int, new: int) -> str:
    return f"  {100 * (new - old) / old:+.1f} %" if old and new != old else ""


def _change(change: ResultChange) -> str:
    when = "" if change.after.start_ms is None else f"{_time(change.after.start_ms)}  "
    what = f"{change.name} {_short(change.old)} → {_short(change.new)}".lstrip()
    of = f"{change.before.count:,} → {change.after.count:,} readings"
    return f"{when}{change.after.key}: {what} ({of})"


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")[:19]


def _advice(lateness: Lateness) -> Iterator[str]:
    found: dict[str, Any] = lateness.fields()
    yield "  suggested by these readings:"
    yield f"    out_of_orderness: {found['out_of_orderness']}   # 99 % of the readings are in time"
    yield f"    allowed_lateness: {found['allowed_lateness']}   # with it, none of them is dropped"
    if found["idle_timeout"] is not None:
        yield f"    idle_timeout: {found['idle_timeout']}   # longer than 99.9 % of the pauses of a source"
    yield "    what each out_of_orderness costs, with the new allowed_lateness:"
    for point in _thinned(found["curve"]):
        late, dropped = (100 * point[name] / lateness.readings for name in ("late", "dropped"))
        delay = f"{point['out_of_orderness_ms'] / 1000:>9,.3f} s"
        yield f"      {delay}  {late:6.2f} % late  {dropped:6.2f} % dropped"


def _limit_advice(limits: Limits) -> Iterator[str]:
    found: dict[str, Any] = limits.fields()
    yield f"  suggested by these {found['values']:,} values:"
    yield f"    {found['option']}: {found['recommended']:g}   # 99.9 % of them are not beyond it"
    yield f"    what each limit costs (it is {found['configured']:g} now):"
    for point in _thinned(found["curve"]):
        lasts = f"{100 * point['windows_in_alarm'] / found['values']:6.2f} % of the windows in alarm"
        yield f"      {point['limit']:>11g}  {point['alarms']:>9,} alarms  {lasts}"


def _thinned(curve: Sequence[Any], most: int = 8) -> Sequence[Any]:
    return curve if len(curve) <= most else [curve[at * (len(curve) - 1) // (most - 1)] for at in range(most)]


# --- the plot ---

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 720, 240, 60, 34, 40
_COLOURS = ("#1f6feb", "#d1242f")


class _Chart(NamedTuple):
    """Lines over one axis: by name, the height at each of `across`."""

    title: str
    across: Sequence[float]
    lines: Mapping[str, Sequence[float]]
    unit: str  # of the heights
    ends: tuple[str, str]  # texts below the axis
    suggested: float


def what_if_svg(differences: Sequence[WindowDifference]) -> str:
    """Return the cost curves of all windows as SVG: delay against late and dropped readings, and limits
    against alarms."""
    charts = [chart for one in differences for chart in _charts(one)]
    height = max(1, len(charts)) * _HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for row, chart in enumerate(charts):
        parts += [f'<g transform="translate(0 {row * _HEIGHT})">', *_plot(chart), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _charts(one: WindowDifference) -> Iterator[_Chart]:
    if one.lateness is not None and one.lateness.readings:
        curve, percent = one.lateness.curve(), 100 / one.lateness.readings
        across = [point["out_of_orderness_ms"] / 1000 for point in curve]
        lines = {name: [percent * point[name] for point in curve] for name in ("late", "dropped")}
        ends = "out_of_orderness: 0", f"{across[-1]:g} s"
        yield _Chart(one.window, across, lines, " %", ends, one.lateness.out_of_orderness_ms / 1000)
    if one.limits is not None and one.limits.values:
        points = sorted(one.limits.curve, key=lambda point: point["limit"])
        across = [point["limit"] for point in points]
        lines = {"alarms": [point["alarms"] for point in points]}
        ends = f"{one.limits.side}: {across[0]:g}", f"{across[-1]:g}"
        yield _Chart(f"{one.window}: limit", across, lines, "", ends, one.limits.recommended)


def _plot(chart: _Chart) -> Iterator[str]:
    least, widest = chart.across[0], chart.across[-1]
    most = max(1e-9, *(max(heights) for heights in chart.lines.values()))
    wide, high = _WIDTH - _LEFT - 20, _HEIGHT - _TOP - _BOTTOM

    def place(at: float) -> float:
        return _LEFT + wide * (min(at, widest) - least) / ((widest - least) or 1)

    yield f'<text x="{_LEFT}" y="18" font-weight="bold">{escape(chart.title)}</text>'
    yield f'<path d="M{_LEFT} {_TOP}V{_TOP + high}H{_LEFT + wide}" fill="none" stroke="#888"/>'
    yield f'<text x="{_LEFT - 6}" y="{_TOP + 4}" text-anchor="end">{most:.3g}{chart.unit}</text>'
    yield f'<text x="{_LEFT - 6}" y="{_TOP + high + 4}" text-anchor="end">0{chart.unit}</text>'
    bottom = _TOP + high + 16
    yield f'<text x="{_LEFT}" y="{bottom}">{chart.ends[0]}</text>'
    yield f'<text x="{_LEFT + wide}" y="{bottom}" text-anchor="end">{chart.ends[1]}</text>'
    for at, (name, heights) in enumerate(chart.lines.items()):
        heads = (
            f"{place(x):.1f},{_TOP + high * (1 - y / most):.1f}"
            for x, y in zip(chart.across, heights, strict=True)
        )
        yield f'<polyline points="{" ".join(heads)}" fill="none" stroke="{_COLOURS[at]}" stroke-width="2"/>'
        yield f'<text x="{_LEFT + wide - 200 + 120 * at}" y="18" fill="{_COLOURS[at]}">{name}</text>'
    line = place(chart.suggested)
    yield f'<path d="M{line:.1f} {_TOP}V{_TOP + high}" stroke="#2da44e" stroke-dasharray="4 3"/>'
    yield f'<text x="{line + 4:.1f}" y="{_TOP + 12}" fill="#2da44e">suggested: {chart.suggested:g}</text>'
