"""Two configurations over the same past: what `replay --what-if`, `apply` and a remote configuration run.

As a program (`python -m gateway.app.rehearsing`) it rehearses for a running gateway, in a process of its own:
what a configuration or a plugin does there, also to memory and processor, does not reach the gateway. It
reads one `RehearsalRequest` as JSON and writes one `RehearsalResult`, as the last line.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import apsw

from gateway.app.rehearsal_process import RehearsalRequest, RehearsalResult
from gateway.config import Config, parse_config
from gateway.core.errors import ConfigError, GatewayError
from gateway.decode.routes import RouteTable
from gateway.host.garbage import collect_seldom
from gateway.pipeline.plugins_loader import load_plugins
from gateway.pipeline.recordings import BufferRecording, Selection
from gateway.pipeline.rehearsal import Rehearsal, Side, WindowDifference
from gateway.pipeline.rehearsal_limits import RehearsalLimits
from gateway.pipeline.replay import Recorded
from gateway.windows.engine import WindowEngine

_LOOK_EVERY = 1000  # messages between two looks at the clock
_POLITE = 10  # niceness


@dataclass(frozen=True)
class Rehearsed:
    """Differences of two configurations. `decoded` counts the messages that routes could decode."""

    differences: list[WindowDifference]
    messages: int
    decoded: tuple[int, int]

    def objections(self, limits: RehearsalLimits) -> list[str]:
        """Return a sentence for each limit that the new configuration exceeds."""
        return limits.objections(self.differences, self.decoded)


def rehearse(
    before: Config,
    after: Config,
    messages: Iterable[Recorded],
    *,
    flush: bool = True,
    timeout_s: float | None = None,
) -> Rehearsed:
    """Run two configurations over messages; after `timeout_s` over no further ones. Raises GatewayError."""
    rehearsal = Rehearsal(*(Side(RouteTable(one.route_specs()), make_engine(one)) for one in (before, after)))
    collect_seldom()
    deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
    for event in messages:
        rehearsal.feed(event)
        if rehearsal.messages % _LOOK_EVERY == 0 and time.monotonic() > deadline_s:
            break
    return Rehearsed(rehearsal.finish(flush=flush), rehearsal.messages, rehearsal.decoded)


def make_engine(settings: Config) -> WindowEngine:
    """Return the windows of a configuration with their plugins. Raises PluginError."""
    specs = settings.window_specs()
    loaded = load_plugins(specs, settings.plugins.directory)
    return WindowEngine(specs, loaded.plugins, loaded.fingerprints)


def answer(request: RehearsalRequest) -> RehearsalResult:
    """Rehearse as asked."""
    folder = Path(request.folder)
    try:
        before, after = (parse_config(text, folder, "it") for text in (request.before, request.after))
        wanted = Selection(from_ms=request.from_ms, gateway_id=before.gateway.id)
        recording = BufferRecording(Path(request.buffer), wanted)
        found = rehearse(before, after, recording.messages(), timeout_s=request.timeout_s)
    except ConfigError as exc:
        return RehearsalResult(error="; ".join([str(exc), *exc.problems]))
    except (GatewayError, apsw.Error) as exc:
        return RehearsalResult(error=str(exc))
    return RehearsalResult(found.messages, tuple(found.objections(request.limits)))


def _main() -> None:
    os.nice(_POLITE)
    with suppress(OSError):  # where memory runs out, this process is the one to end
        Path("/proc/self/oom_score_adj").write_text("1000")
    told = json.load(sys.stdin)
    request = RehearsalRequest(**told | {"limits": RehearsalLimits(**told["limits"])})
    sys.stdout.write(f"\n{json.dumps(asdict(answer(request)))}\n")


if __name__ == "__main__":
    _main()
