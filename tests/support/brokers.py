"""Real Mosquitto brokers for tests: a container where a Docker engine answers, else the `mosquitto` program.

Both kinds keep the contract of `Broker`, which `test_brokers.py` holds against each of them;
`broker_kinds.py` knows which of them this machine has. They listen on the loopback interface only, on a
port of `ports.py`, which stays theirs while they are down for a moment.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port as free_port  # noqa: PLC0414

IMAGE = os.environ.get("MOSQUITTO_IMAGE", "eclipse-mosquitto:2")
START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 30.0  # an orderly stop writes what is queued
_RUNNING = " running"  # `mosquitto version 2.0.18 running`: every listener is open


class BrokerFailedError(Exception):
    """Raised when a broker does not come up; the message holds what it logged."""


@dataclass(frozen=True)
class BrokerSetup:
    """What a broker is started with.

    `config_lines` follow on the plain listener, so TLS settings among them apply to it; they must keep
    `log_type information`. A listener of their own is written `listener PORT {bind}`, with PORT among the
    `extra_ports`. `shared_dir` is the one folder that the broker and the test both see, under the same
    path: certificates, ACLs and the persistence file.
    """

    port: int
    extra_ports: tuple[int, ...]
    config_lines: tuple[str, ...]
    shared_dir: Path
    persistent: bool

    def config_text(self, bind_address: str) -> str:
        """The whole configuration. As root it stays root: others cannot read the folders of pytest."""
        lines = [f"listener {self.port} {bind_address}", "allow_anonymous true"]
        if os.geteuid() == 0:
            lines.append("user root")
        if self.persistent:
            lines += ["persistence true", f"persistence_location {self.shared_dir}/"]
        own_lines = [line.replace("{bind}", bind_address) for line in self.config_lines]
        return "\n".join([*lines, *own_lines, ""])


class Broker(ABC):
    """One Mosquitto on 127.0.0.1 that can be started, stopped, killed and frozen.

    `start` returns once it accepts connections, on the same port each time and with what its persistence
    kept. `stop` is orderly (SIGTERM), `kill` is not (SIGKILL); both return when it is gone. `pause` freezes
    it with its sockets open, `resume` lets it go on. Each of them may be called in any state.
    """

    host = "127.0.0.1"

    def __init__(self, setup: BrokerSetup) -> None:
        self.setup = setup

    @property
    def port(self) -> int:
        """Where it listens, the same over restarts."""
        return self.setup.port

    @property
    def url(self) -> str:
        """For a configuration: `mqtt://127.0.0.1:PORT`."""
        return f"mqtt://{self.host}:{self.port}"

    @abstractmethod
    def start(self) -> None:
        """Run the broker. Raises BrokerFailedError when it does not come up."""

    @abstractmethod
    def stop(self) -> None:
        """End it in good order: it saves what it holds."""

    @abstractmethod
    def kill(self) -> None:
        """End it as a crash would."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze it: peers see an open connection and silence."""

    @abstractmethod
    def resume(self) -> None:
        """Let a frozen broker go on."""

    @abstractmethod
    def close(self) -> None:
        """End it for good and remove what it left outside of its shared folder."""

    @abstractmethod
    def log(self) -> str:
        """What it has logged since it was made."""

    @abstractmethod
    def is_running(self) -> bool:
        """Whether it is up, frozen or not."""

    def _wait_until_running(self, earlier_starts: int) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while self.log().count(_RUNNING) <= earlier_starts:
            if not self.is_running() or time.monotonic() > deadline:
                raise BrokerFailedError(f"mosquitto on port {self.port} did not start:\n{self.log()}")
            time.sleep(0.02)


class ProgramBroker(Broker):
    """The `mosquitto` program of this machine, as a child process."""

    def __init__(self, setup: BrokerSetup) -> None:
        super().__init__(setup)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_path = setup.shared_dir / "mosquitto.log"

    def start(self) -> None:
        if self.is_running():
            return
        config = self.setup.shared_dir / "mosquitto.conf"
        config.write_text(self.setup.config_text(self.host))
        earlier_starts = self.log().count(_RUNNING)
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [str(mosquitto_program()), "-c", str(config)], stdout=log, stderr=log, start_new_session=True
            )
        self._wait_until_running(earlier_starts)

    def stop(self) -> None:
        self._end_with(signal.SIGTERM)

    def kill(self) -> None:
        self._end_with(signal.SIGKILL)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()

    def log(self) -> str:
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_running():
            self._process.send_signal(number)

    def _end_with(self, number: signal.Signals) -> None:
        self._signal(number)
        self.resume()  # a frozen process would see SIGTERM only once it goes on
        if self._process is not None:
            self._process.wait(STOP_DEADLINE_S)


class ContainerBroker(Broker):
    """A Mosquitto image in a container, through testcontainers."""

    def __init__(self, setup: BrokerSetup) -> None:
        # Half a second of a processor, which every worker of the tests would spend.
        from testcontainers.core.config import testcontainers_config  # noqa: PLC0415
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415

        # The fixture removes its containers itself; Ryuk would be one more image to pull.
        testcontainers_config.ryuk_disabled = True
        super().__init__(setup)
        self._container = DockerContainer(IMAGE, user=f"{os.getuid()}:{os.getgid()}")
        self._container.with_volume_mapping(setup.shared_dir, str(setup.shared_dir), "rw")
        self._container.with_command(["mosquitto", "-c", str(setup.shared_dir / "mosquitto.conf")])
        self._bind_address = self._attach_to_network()

    def start(self) -> None:
        if self.is_running():
            return
        config = self.setup.shared_dir / "mosquitto.conf"
        config.write_text(self.setup.config_text(self._bind_address))
        earlier_starts = self.log().count(_RUNNING)
        if self._is_made:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
        self._wait_until_running(earlier_starts)

    def stop(self) -> None:
        self.resume()
        if self.is_running():
            self._container.get_wrapped_container().stop(timeout=int(STOP_DEADLINE_S))

    def kill(self) -> None:
        self.resume()  # the engine refuses to kill what it has frozen
        if self.is_running():
            self._container.get_wrapped_container().kill()
            self._container.get_wrapped_container().wait(timeout=STOP_DEADLINE_S)

    def pause(self) -> None:
        if self._status() == "running":
            self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        if self._status() == "paused":
            self._container.get_wrapped_container().unpause()

    def close(self) -> None:
        self.resume()
        self._container.stop()

    def log(self) -> str:
        if not self._is_made:
            return ""
        return str(self._container.get_wrapped_container().logs(), "utf-8", "replace")

    def is_running(self) -> bool:
        return self._status() in {"running", "paused"}

    @property
    def _is_made(self) -> bool:
        return self._container._container is not None

    def _status(self) -> str:
        if not self._is_made:
            return "absent"
        self._container.reload()
        return str(self._container.status)

    def _attach_to_network(self) -> str:
        """Publish the port on the loopback, or share the host's network where the engine has no bridge."""
        if not self._container.get_docker_client().client.networks.list(names=["bridge"]):
            self._container.with_kwargs(user=f"{os.getuid()}:{os.getgid()}", network_mode="host")
            return self.host
        for port in (self.port, *self.setup.extra_ports):
            self._container.ports[f"{port}/tcp"] = (self.host, port)  # type: ignore[assignment]
        return "0.0.0.0"  # noqa: S104 - inside of the container; the engine publishes it on the loopback


def mosquitto_program() -> Path | None:
    """Where the `mosquitto` program is; Debian installs it outside of a plain user's PATH."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


def make_broker(kind: type[Broker], setup: BrokerSetup) -> Broker:
    """A running broker. Leaves nothing behind when it does not come up."""
    broker = kind(setup)
    try:
        broker.start()
    except BaseException:
        broker.close()
        raise
    return broker
