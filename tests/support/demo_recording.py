"""Plays `gateway demo` on a screen of its own and draws it as one SVG whose frames take turns.

`python -m tests.support.demo_recording docs/images/demo.svg`
"""

from __future__ import annotations

import argparse
import io
import re
import tempfile
import threading
from pathlib import Path

from rich.console import Console

from gateway.cli.demo import Performance
from gateway.cli.demo_screen import Screen, Story, balance, balance_checks
from gateway.lab.demo_stage import DemoSpec, Stage

COLUMNS, ROWS = 110, 30
FRAMES = 7
FRAME_S = 2.4
DEVICES, RATE_PER_S = 20, 300.0

_SIZE = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')


class Camera:
    """A `Show` that keeps a frame each time so many seconds have gone by."""

    def __init__(self, story: Story, every_s: float) -> None:
        self.frames: list[str] = []
        self._screen = Screen(story)
        self._story = story
        self._every_s = every_s

    def refresh(self) -> None:
        if self._story.now_s >= self._every_s * (len(self.frames) + 0.7):
            self.keep(self._screen)

    def keep(self, *shown: object) -> None:
        output = io.StringIO()
        console = Console(record=True, file=output, width=COLUMNS, height=ROWS, force_terminal=True)
        for each in shown:
            console.print(each)
        console.print("\n" * (ROWS - 1 - output.getvalue().count("\n")))
        number = len(self.frames)
        self.frames.append(console.export_svg(title="gateway demo", unique_id=f"frame{number}"))


def animated(frames: list[str]) -> str:
    """One SVG that shows each frame in turn, for ever; a viewer without animation sees the first."""
    sizes = [_SIZE.search(frame) for frame in frames]
    width = max(float(size[1]) for size in sizes if size)
    height = max(float(size[2]) for size in sizes if size)
    share = 100 / len(frames)
    # The first one is always there, behind the others.
    style = (
        f"@keyframes turn {{ 0%, {share:.3f}% {{ opacity: 1 }} {share + 0.001:.3f}%, 100% {{ opacity: 0 }} }}"
        f".turn {{ opacity: 0; animation: turn {len(frames) * FRAME_S:.1f}s step-end infinite }}"
    )
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>{style}</style>']
    for number, frame in enumerate(frames):
        delay = f"animation-delay: {number * FRAME_S:.1f}s"
        turn = f'class="turn" style="{delay}"' if number else ""
        parts.append(f"<g {turn}>{_slim(frame)}</g>")
    return "\n".join([*parts, "</svg>"])


def _slim(frame: str) -> str:
    """Load nothing from elsewhere (the viewer's monospace does as well), and clip nothing: all of it fits."""
    frame = re.sub(r"@font-face\s*\{[^}]*\}", "", frame).replace("Fira Code", "monospace")
    frame = re.sub(r'<clipPath id="\w+-line-\d+">.*?</clipPath>\s*', "", frame, flags=re.DOTALL)
    return re.sub(r' clip-path="url\(#\w+-line-\d+\)"', "", frame)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=40.0, help="how long the sensors publish")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(DemoSpec(Path(folder), DEVICES, RATE_PER_S))
        performance = Performance(stage, given.seconds, threading.Event())
        camera = Camera(performance.story, given.seconds / FRAMES)
        stage.start()
        try:
            performance.play(camera)
        finally:
            stage.stop()
        counted = stage.count()
        camera.keep(balance(counted, balance_checks(counted)))
    given.output.write_text(animated(camera.frames) + "\n", "utf-8")


if __name__ == "__main__":
    main()
