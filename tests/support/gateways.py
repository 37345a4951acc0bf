"""A gateway as a process of its own, for tests that kill it, and what a publisher must know to check it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from gateway.buffer.proof.balance import Audit, audit
from gateway.buffer.reader import Reader
from tests.support.forked import ForkedGateway
from tests.support.ports import free_port

HOST = "127.0.0.1"
PATIENCE_S = 120.0  # on a busy machine


def wait_until(true: Callable[..., object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for something that another process or thread will bring about; fail with `what` if it does not."""
    deadline_s = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline_s, f"gave up waiting: {what}"
        time.sleep(0.02)


def gateway_config(folder: Path, local_url: str, cloud_url: str | None = None, **more: object) -> Path:
    """A configuration file with one route, `sensors/{device}`, and one window of a minute over it."""
    config: dict[str, object] = {
        "gateway": {"id": "g1", "data_dir": "data"},
        "local": {"url": local_url},
        "http": {"listen": f"{HOST}:{free_port()}"},
        "buffer": {"checkpoint_interval": "500ms"},
        "routes": [
            {
                "name": "sensors",
                "topic": "sensors/{device}",
                "timestamp_path": "t",
                "timestamp_format": "unix_ms",
                "timestamp": "trusted",
            }
        ],
        "windows": [
            {
                "name": "minute",
                "route": "sensors",
                "field": "v",
                "key": "{device}",
                "watermark": "shared",
                "window": {"type": "tumbling", "size": "1m"},
            }
        ],
    }
    if cloud_url is not None:
        config["cloud"] = {"url": cloud_url}
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(config | more))
    return path


class GatewayProcess:
    """`gateway run -c config`: started by `with`, killed and started again at will, gone at the end.

    `inside` is a command that runs the gateway, such as `sh -c '…; exec "$@"' sh`. Without it, and without a
    library to load before all others, the process is forked from one that has imported everything.
    """

    def __init__(self, config: Path, inside: Sequence[str] = ()) -> None:
        self.config = config
        self._inside = inside
        settings = yaml.safe_load(config.read_text())
        self._listen = settings["http"]["listen"]
        self.buffer_path = config.parent / settings["gateway"]["data_dir"] / "events.db"
        self._log = config.parent / "gateway.log"
        self._process: subprocess.Popen[bytes] | ForkedGateway | None = None

    def __enter__(self) -> GatewayProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        assert self._process is None, "it runs already"
        args = ("run", "-c", str(self.config))
        if self._inside or "LD_PRELOAD" in os.environ:
            with self._log.open("ab") as log:
                command = [*self._inside, sys.executable, "-m", "gateway", *args]
                self._process = subprocess.Popen(command, stdout=log, stderr=log)
        else:
            self._process = ForkedGateway(args, self._log, os.environ)

    def wait_ready(self) -> None:
        wait_until(lambda: self._is_running() and self.get("/readyz") is not None, self.log())

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def ended(self) -> int:
        """Wait until it ends by itself; returns the exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        return process.wait(PATIENCE_S)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It stands still until the end of the `with`."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def reload(self) -> None:
        """SIGHUP."""
        os.kill(self.pid, signal.SIGHUP)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def get(self, path: str) -> str | None:
        """The body of an HTTP answer with status 200, else None."""
        try:
            with urllib.request.urlopen(f"http://{self._listen}{path}", timeout=5) as answer:
                return str(answer.read(), "utf-8")
        except urllib.error.HTTPError as exc:
            exc.close()
        except OSError:
            pass  # it is starting, or gone
        return None

    def said(self, path: str) -> str:
        """The body of an HTTP answer with whatever status; empty where there is none."""
        try:
            with urllib.request.urlopen(f"http://{self._listen}{path}", timeout=5) as answer:
                return str(answer.read(), "utf-8")
        except urllib.error.HTTPError as exc:
            with exc:
                return str(exc.read(), "utf-8")
        except OSError:
            return ""

    def metric(self, name: str) -> float:
        """One number of /metrics, with its labels; 0 where it is not there yet."""
        for line in (self.get("/metrics") or "").splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def audit(self) -> Audit:
        reader = Reader(self.buffer_path)
        try:
            return audit(reader)
        finally:
            reader.close()

    def raw_payloads(self) -> list[dict[str, object]]:
        """The JSON payload of every raw event in the buffer, in commit order."""
        reader = Reader(self.buffer_path)
        try:
            return [json.loads(p) for events in reader.raw_after(0) for p in reader.payloads(events)]
        finally:
            reader.close()

    def _is_running(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the gateway ended:\n{self.log()}"
        return True

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(PATIENCE_S)
