"""Brokers of several makers as programs: on the loopback, on free ports, their data in a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import yaml

from tests.support.brokers import BrokerFailedError, mosquitto_program
from tests.support.ports import free_port

HOST = "127.0.0.1"
START_DEADLINE_S = 60.0  # Erlang on a busy machine
STOP_DEADLINE_S = 30.0
ROOT = Path(__file__).parents[2]


class OtherBroker(ABC):
    """A broker in a process group of its own: `start`, `kill`, and `start` again on the same port and data.

    `username` is empty where clients need no account.
    """

    name: ClassVar[str]
    username: ClassVar[str] = ""
    password: ClassVar[str] = ""
    starts_quickly: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self._log = folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """Say why it does not run here; empty when it does."""

    @abstractmethod
    def command(self) -> list[str]:
        """Write the configuration and return the command that stays in the foreground."""

    def environment(self) -> Mapping[str, str]:
        """What the command needs in its environment."""
        return {}

    @property
    def url(self) -> str:
        return f"mqtt://{HOST}:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=os.environ | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + START_DEADLINE_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                raise BrokerFailedError(
                    f"{self.name} did not start:\n{self._log.read_text(errors='replace')}"
                )
            time.sleep(0.05)

    def kill(self) -> None:
        """`kill -9` of all its processes."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_DEADLINE_S)

    def __enter__(self) -> OtherBroker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


class Mosquitto(OtherBroker):
    """With what mosquitto/local.conf and mosquitto/cloud.conf say about keeping messages."""

    name = "Mosquitto"

    @classmethod
    def missing(cls) -> str:
        return "" if mosquitto_program() else "no program `mosquitto` (apt-get install mosquitto)"

    def command(self) -> list[str]:
        config = self.folder / "mosquitto.conf"
        lines = [
            f"listener {self.port} {HOST}",
            "allow_anonymous true",
            *(["user root"] if os.geteuid() == 0 else []),
            "persistence true",
            f"persistence_location {self.folder}/",
            "autosave_interval 1",
            "autosave_on_changes true",
            "max_queued_messages 0",
        ]
        config.write_text("\n".join([*lines, ""]))
        return [str(mosquitto_program()), "-c", str(config)]


class Amqtt(OtherBroker):
    """The gateway's embedded broker in memory, in a process of its own so that it can be killed alone."""

    name = "amqtt (embedded)"

    @classmethod
    def missing(cls) -> str:
        return ""

    def command(self) -> list[str]:
        program = (
            f"import threading; from gateway.mqtt.embedded import EmbeddedBroker; "
            f"EmbeddedBroker(port={self.port}).start(); threading.Event().wait()"
        )
        return [sys.executable, "-c", program]

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(ROOT)}


class Aedes(OtherBroker):
    """Aedes with its default persistence, the memory. AEDES_HOME is where `npm install aedes` ran."""

    name = "Aedes"
    _SCRIPT = """
const {{ createRequire }} = require('module')
const {{ Aedes }} = createRequire({home!r} + '/')('aedes')
Aedes.createBroker().then(broker =>
  require('net').createServer(broker.handle).listen({port}, {host!r}))
"""

    @classmethod
    def home(cls) -> Path:
        return Path(os.environ.get("AEDES_HOME", ROOT / "build" / "aedes"))

    @classmethod
    def missing(cls) -> str:
        if not shutil.which("node"):
            return "no program `node` (apt-get install nodejs npm)"
        if not (cls.home() / "node_modules" / "aedes").exists():
            return f"no package aedes (npm install --prefix {cls.home()} aedes)"
        return ""

    def command(self) -> list[str]:
        script = self.folder / "aedes.cjs"
        script.write_text(self._SCRIPT.format(home=str(self.home()), port=self.port, host=HOST))
        return ["node", str(script)]


class Nats(OtherBroker):
    """nats-server with JetStream, which its MQTT needs."""

    name = "NATS"

    @classmethod
    def missing(cls) -> str:
        return "" if _program("nats-server") else "no program `nats-server` (apt-get install nats-server)"

    def command(self) -> list[str]:
        config = self.folder / "nats.conf"
        own_port = free_port()
        config.write_text(
            f'server_name: matrix\nlisten: "{HOST}:{own_port}"\n'
            f'jetstream {{ store_dir: "{self.folder}" }}\nmqtt {{ listen: "{HOST}:{self.port}" }}\n'
        )
        return [_program("nats-server"), "-c", str(config)]


class RabbitMQ(OtherBroker):
    """RabbitMQ with its MQTT plugin; the distribution's wrapper, which changes the user, is passed by."""

    name = "RabbitMQ"
    username = "guest"
    password = "guest"  # noqa: S105 - RabbitMQ's own, for the loopback only
    starts_quickly = False
    _PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._erlang = _Erlang(folder)
        self._ports = free_port(), free_port()

    @classmethod
    def missing(cls) -> str:
        return "" if cls._PROGRAM.exists() else "no program `rabbitmq-server` (apt-get install …)"

    def command(self) -> list[str]:
        (self.folder / "plugins").write_text("[rabbitmq_mqtt].\n")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {HOST}:{self._ports[0]}\nmqtt.listeners.tcp.1 = {HOST}:{self.port}\n"
            "mqtt.allow_anonymous = false\n"
        )
        return [str(self._PROGRAM)]

    def environment(self) -> Mapping[str, str]:
        return self._erlang.environment() | {
            "RABBITMQ_NODENAME": f"matrix{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_DIST_PORT": str(self._ports[1]),
        }

    def start(self) -> None:
        self._erlang.start()
        super().start()

    def kill(self) -> None:
        super().kill()
        self._erlang.kill()


class Ejabberd(OtherBroker):
    """ejabberd's mod_mqtt. Accounts are anonymous, but named: a session belongs to user and client id."""

    name = "ejabberd"
    username = "gateway@localhost"
    password = "any"  # noqa: S105 - anonymous accounts take any
    _LIBRARIES = "/usr/lib/x86_64-linux-gnu"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._erlang = _Erlang(folder)

    @classmethod
    def missing(cls) -> str:
        found = _program("ejabberdctl") and any(Path(cls._LIBRARIES).glob("ejabberd-*/ebin/mod_mqtt.beam"))
        return "" if found else "no program `ejabberdctl` (apt-get install ejabberd)"

    def command(self) -> list[str]:
        config: dict[str, object] = {
            "hosts": ["localhost"],
            "loglevel": "info",
            "auth_method": ["anonymous"],
            "anonymous_protocol": "login_anon",
            "allow_multiple_connections": True,
            "listen": [{"port": self.port, "ip": HOST, "module": "mod_mqtt", "backlog": 1000}],
            "modules": {"mod_mqtt": {}},
        }
        (self.folder / "ejabberd.yml").write_text(yaml.safe_dump(config))
        spool = self.folder / "spool"
        spool.mkdir(exist_ok=True)
        node = f"matrix{self.port}@localhost"
        return ["erl", "-noinput", "-sname", node, "-mnesia", "dir", f'"{spool}"', "-s", "ejabberd"]

    def environment(self) -> Mapping[str, str]:
        return self._erlang.environment() | {
            "ERL_LIBS": self._LIBRARIES,
            "EJABBERD_CONFIG_PATH": str(self.folder / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self.folder / "ejabberd.log"),
        }

    def start(self) -> None:
        self._erlang.start()
        super().start()

    def kill(self) -> None:
        super().kill()
        self._erlang.kill()


class _Erlang:
    """The daemon where Erlang's nodes find each other, on a port of its own, and a home for the cookie."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        return {"ERL_EPMD_PORT": str(self._port), "ERL_EPMD_ADDRESS": HOST, "HOME": str(self._folder)}

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["epmd"],
            env=os.environ | self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_DEADLINE_S)


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""


KINDS: tuple[type[OtherBroker], ...] = (Mosquitto, Amqtt, Aedes, Nats, RabbitMQ, Ejabberd)
