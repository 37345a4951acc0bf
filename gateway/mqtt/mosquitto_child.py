"""The `mosquitto` program as a child of this process, for `local.url: embedded` where it is installed.

It has the settings of `mosquitto/local.conf`, but saves less often, and keeps sessions and queues in a folder
of its own. It ends with this process, also after `kill -9`; when it ends by itself, it is started again, and
health says so.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from gateway.core.errors import BrokerError
from gateway.core.threads import RoleThread
from gateway.host.ports import free_port

log = logging.getLogger(__name__)

Preference = Literal["auto", "amqtt", "mosquitto"]

# `mosquitto/local.conf` has the reason for each number.
SETTINGS = """\
persistence true
autosave_on_changes true
max_queued_messages 500000
max_queued_bytes 268435456
upgrade_outgoing_qos true
max_inflight_messages 4000
persistent_client_expiration 14d
message_size_limit 1048576
max_packet_size 1179648
set_tcp_nodelay true
log_dest stderr
log_type error
log_type warning
log_type notice
"""
# Saving after each change, as shipped, lets it take some hundred messages a second. This one is not there to
# queue for a gateway that is away; docs/deployment.md says what is lost when it is killed.
# That it runs is information to Mosquitto, and a line that the start waits for.
_OWN_SETTINGS = """\
autosave_interval 100
log_timestamp false
connection_messages false
log_type information
log_type subscribe
"""
# A line with client id, QoS and filter. With a subscription all that comes after it would be lost, so it is
# saved at once. Another line that looks like it costs a write.
_SUBSCRIBED = re.compile(r".+ [012] .+")

_START_DEADLINE_S = 20.0  # a long queue is read first
_STOP_DEADLINE_S = 8.0  # an orderly stop writes what is queued; systemd gives the whole gateway ten seconds
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0  # before it is started again; doubled while it keeps ending
_STEADY_S = 60.0  # after that long an end counts as the first one again
_HASH_ROUNDS = 101  # what mosquitto_passwd 2.0 writes; the file itself is readable by its owner only

# The kernel ends the program with the thread that started it. Set in a process of its own and not between
# fork and exec, where a threaded Python must not run; a parent that was gone before is seen by its number.
# Silent connections must not take the last descriptor soon: it gets as many as this process may have.
_LAUNCHER = """\
import ctypes, os, resource, signal, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def find_mosquitto() -> Path | None:
    """Return the program; Debian installs it outside of a plain user's PATH."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


def embedded_program(preference: Preference) -> Path | None:
    """Return the program that serves as the embedded broker; None where amqtt does.

    Raises BrokerError when `preference` names Mosquitto and there is none.
    """
    found = None if preference == "amqtt" else find_mosquitto()
    if preference == "mosquitto" and found is None:
        raise BrokerError(
            "local.broker is mosquitto, but there is no such program here",
            hint="install it (apt-get install mosquitto), or write broker: auto",
        )
    return found


class _Supervisor(RoleThread):
    """The supervisor's thread, whose health is also the child's."""

    def __init__(self, loop: Callable[[], object]) -> None:
        super().__init__("broker", loop)
        self.child_problem = ""

    @property
    def problem(self) -> str:
        return super().problem or self.child_problem


class MosquittoChild:
    """A Mosquitto on `host:port` with its data in `folder`; port 0 is replaced by a free one and then kept.

    Without `username` and `password` everyone who reaches `host` may connect.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.restarts = 0
        self.thread: _Supervisor | None = None
        """The thread that watches the program, while it is started."""
        self._program = program
        self._folder = folder
        self._credentials = (username, password)
        self._process: subprocess.Popen[str] | None = None
        self._lines: deque[str] = deque(maxlen=20)
        self._stopping = threading.Event()
        self._settled = threading.Event()  # it runs, or has ended
        self._opened = self._runs = False

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def start(self) -> None:
        """Return once clients can connect. Raises BrokerError, for instance when the port is taken."""
        if self.thread is not None:
            return
        self.port = self.port or free_port(self.host)
        self._write_files()
        self._stopping.clear()
        self._settled.clear()
        self._opened = False
        self.thread = _Supervisor(self._supervise)
        self.thread.start()
        self._settled.wait(_START_DEADLINE_S)
        if not self._runs:
            said = self._last_words()
            self.stop()
            raise BrokerError(
                f"mosquitto cannot be started on {self.host}:{self.port}: {said}",
                hint="where a broker runs already, name it as local.url; or give another local.listen",
            )
        log.info("the embedded broker is %s on %s:%d", self._program, self.host, self.port)

    def stop(self) -> None:
        """Let it save what it holds and end; without effect when it is not running."""
        thread, self.thread = self.thread, None
        if thread is None:
            return
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
        thread.join(_STOP_DEADLINE_S)
        if thread.is_alive() and self._process is not None:
            log.warning("mosquitto did not stop within %d s and is killed", _STOP_DEADLINE_S)
            self._process.kill()
            thread.join()

    def _supervise(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            began_s = time.monotonic()
            self._run_once()
            if self._stopping.is_set() or not self._opened:
                return  # what never ran is the error of start()
            if time.monotonic() - began_s > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            self.restarts += 1
            self._tell(f"mosquitto has ended ({self._last_words()}); it is started again")
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run_once(self) -> None:
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
        command = [*launch, str(self._program), "-c", str(self._folder / "mosquitto.conf")]
        try:
            # A session of its own: Ctrl-C is for the gateway, which then stops it.
            process = subprocess.Popen(  # noqa: S603 - the program that is installed, and files of ours
                command, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
            )
        except OSError as exc:
            self._lines.append(str(exc))
            self._settled.set()
            return
        self._process = process
        if self._stopping.is_set():
            process.terminate()
        self._read_log(process)
        process.wait()
        self._runs = False
        self._lines.append(f"exit code {process.returncode}")
        self._settled.set()

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        """Read what it says until it ends."""
        said = process.stderr
        if said is None:
            return
        with said:
            for line in map(str.strip, said):
                log.log(logging.WARNING if _is_grave(line) else logging.DEBUG, "mosquitto: %s", line)
                if is_subscription(line):
                    process.send_signal(signal.SIGUSR1)  # save now
                    continue
                self._lines.append(line)
                if line.startswith("mosquitto version") and line.endswith(" running"):
                    self._opened = self._runs = True
                    self._tell("")
                    self._settled.set()

    def _tell(self, problem: str) -> None:
        thread = self.thread
        if thread is None or thread.child_problem == problem:
            return
        thread.child_problem = problem
        log.warning("%s", problem or "mosquitto runs again")

    def _last_words(self) -> str:
        lines = list(self._lines)
        errors = [line for line in lines if line.startswith("Error")]
        return (errors or lines or ["it says nothing"])[-1]

    def _write_files(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lines.clear()
        lines = [f"listener {self.port} {self.host}", f"persistence_location {self._folder.resolve()}/"]
        # As root it would become another user, who cannot read the folder, and outlive this process.
        lines.append(f"user {pwd.getpwuid(os.geteuid()).pw_name}" if os.geteuid() == 0 else "")
        username, password = self._credentials
        if username is None:
            lines.append("allow_anonymous true")
        else:
            passwords = self._folder / "passwords"
            _write_private(passwords, f"{username}:{_hashed(password or '')}\n")
            lines += ["allow_anonymous false", f"password_file {passwords.resolve()}"]
        _write_private(self._folder / "mosquitto.conf", "\n".join([*lines, SETTINGS + _OWN_SETTINGS]))


def is_subscription(line: str) -> bool:
    """Return True for the line that Mosquitto logs when it has added a subscription."""
    return not _is_grave(line) and _SUBSCRIBED.fullmatch(line) is not None


def _is_grave(line: str) -> bool:
    return line.startswith(("Error:", "Warning:"))


def _hashed(password: str) -> str:
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _HASH_ROUNDS)
    return f"$7${_HASH_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _write_private(path: Path, text: str) -> None:
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
