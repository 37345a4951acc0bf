"""The rehearsal of one remote configuration, as a child process that the main loop looks at."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.pipeline.rehearsal_limits import RehearsalLimits

log = logging.getLogger(__name__)

_GRACE_S = 60.0  # beyond its timeout, for the start and for the end of its windows
_SHOWN_CHARS = 300


@dataclass(frozen=True)
class RehearsalRequest:
    """Both texts, the folder that their paths are relative to, the buffer, and since when it is read."""

    before: str
    after: str
    folder: str
    buffer: str
    from_ms: int
    timeout_s: float
    limits: RehearsalLimits


@dataclass(frozen=True)
class RehearsalResult:
    """Result of a rehearsal. `error` says why there was none; `objections` what speaks against it."""

    messages: int = 0
    objections: tuple[str, ...] = ()
    error: str = ""

    @property
    def refusal(self) -> str:
        """Return why the configuration is refused; empty where it is not."""
        if self.error:
            return f"it cannot be rehearsed: {self.error}"
        if self.objections:
            return f"in the rehearsal on {self.messages:,} messages " + "; ".join(self.objections)
        return ""


class RehearsalProcess:
    """Runs from `start` until `result` has something to say, or `stop`. Texts go through unnamed files."""

    def __init__(self, request: RehearsalRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. Raises OSError."""
        self._deadline_s = time.monotonic() + self._request.timeout_s + _GRACE_S
        self._said = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - for the process
        with tempfile.TemporaryFile(dir=self._folder) as told:
            told.write(json.dumps(asdict(self._request)).encode())
            told.seek(0)
            command = [sys.executable, "-P", "-m", "gateway.app.rehearsing"]
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                command, stdin=told, stdout=self._said, stderr=self._said
            )

    def result(self) -> RehearsalResult | None:
        """Return the result once there is one. Does not wait."""
        process = self._process
        if process is None:
            return RehearsalResult(error="it did not start")
        if process.poll() is None:
            if time.monotonic() < self._deadline_s:
                return None
            self.stop()
            return RehearsalResult(error=f"it took longer than {self._request.timeout_s + _GRACE_S:.0f} s")
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        self._said.close()
        try:
            told = json.loads(lines[-1])
            return RehearsalResult(told["messages"], tuple(told["objections"]), told["error"])
        except (ValueError, IndexError, TypeError, KeyError):
            log.error("a rehearsal ended with code %d: %s", process.returncode, "\n".join(lines))
            last = lines[-1][:_SHOWN_CHARS] if lines else "without a word"
            return RehearsalResult(error=f"it ended with code {process.returncode}: {last}")

    def stop(self) -> None:
        """End it. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._said.close()
