"""What a gateway gets from each broker, as its local and its cloud one; `make brokers` writes it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.other_brokers import HOST, KINDS, ROOT, Mosquitto, OtherBroker

PROTOCOLS = ("3.1.1", "5")
ROLES = ("local", "cloud")
COLUMNS = ("QoS 0", "QoS 1", "QoS 2", "queue", "kill -9", "kill -9, queue", "downlink", "audit")
COUNT = 50  # messages for each check
QUICK_COUNT = 10
PACE_S = 0.01  # between messages that a kill interrupts
PATIENCE_S = 60.0  # for what should come soon, on a busy machine
REFUSED_AFTER_S = 20.0  # without an acknowledgement
AUDIT_TRIES = 3
WORKERS = 4  # rows at once; most of a row is waiting
YES = "yes"
PAGE = ROOT / "docs" / "deployment.md"
BEGIN, END = "<!-- brokers: begin -->", "<!-- brokers: end -->"

Row = dict[str, str]


class Side(NamedTuple):
    """A broker and the version of MQTT that is spoken with it."""

    broker: OtherBroker
    protocol: str

    def section(self) -> dict[str, object]:
        """Return the keys of `local` or `cloud` in a configuration."""
        keys: dict[str, object] = {"url": self.broker.url, "protocol": self.protocol, "reconnect_max": "1s"}
        if self.broker.username:
            keys |= {"username": self.broker.username, "password": self.broker.password}
        return keys


class Peer:
    """A device or an application with a persistent session, at either version."""

    def __init__(self, side: Side, name: str, filters: Iterable[tuple[str, int]] = ()) -> None:
        self.payloads: list[bytes] = []
        self.answered: list[bool] = []
        self.acknowledged: set[int] = set()
        self._filters = list(filters)
        self._granted = not self._filters
        v5 = side.protocol == "5"
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if v5 else False,
        )
        if side.broker.username:
            self._client.username_pw_set(side.broker.username, side.broker.password)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = lambda _c, _data, number, _reason, _p: self.acknowledged.add(number)
        self._client.on_message = lambda _client, _data, message: self.payloads.append(bytes(message.payload))
        options: dict[str, Any] = {}
        if v5:
            options["properties"] = Properties(PacketTypes.CONNECT)
            options["properties"].SessionExpiryInterval = 3600
            options["clean_start"] = False
        self._client.connect(HOST, side.broker.port, **options)
        self._client.loop_start()

    def __enter__(self) -> Peer:
        wait_until(lambda: True in self.answered and self._granted, "a connection to the broker", PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, n: int, qos: int) -> int:
        """Publish number `n`, now or once the connection is back; returns the packet's number."""
        return self._client.publish(topic, json.dumps({"n": n}).encode(), qos).mid

    def publish_all(
        self, topic: str, numbers: Iterable[int], qos: int, patience_s: float = PATIENCE_S
    ) -> None:
        """Publish, and wait until the broker has taken all of it."""
        self.wait_acknowledged([self.publish(topic, n, qos) for n in numbers], patience_s)

    def wait_acknowledged(self, sent: list[int], patience_s: float = PATIENCE_S) -> None:
        wait_until(lambda: self.acknowledged >= {*sent}, "the broker to acknowledge everything", patience_s)

    def _on_connect(
        self, client: paho.Client, _data: object, _flags: object, reason: Any, _p: object
    ) -> None:
        self.answered.append(not reason.is_failure)
        if not reason.is_failure and self._filters:
            client.subscribe(self._filters)

    def _on_subscribe(self, *_: object) -> None:
        self._granted = True


def speaks(side: Side) -> bool:
    """Find out whether the broker accepts a client of this version."""
    try:
        peer = Peer(side, "probe")
    except OSError:
        return False
    try:
        deadline_s = time.monotonic() + 5
        while not peer.answered and time.monotonic() < deadline_s:
            time.sleep(0.02)
        return True in peer.answered
    finally:
        peer.__exit__()


class Receiver:
    """`gateway receive` with a session of its own."""

    def __init__(self, side: Side, folder: Path) -> None:
        self._output = folder / "received.jsonl"
        self._log = folder / "receive.log"
        password = folder / "password"
        password.write_text(side.broker.password)
        self._command = [
            *(sys.executable, "-m", "gateway", "receive", "--url", side.broker.url, "-o", str(self._output)),
            *("--protocol", side.protocol, "--client-id", "receiver", "--json"),
        ]
        if side.broker.username:
            self._command += ["--username", side.broker.username, "--password-file", str(password)]

    def once(self, *options: str) -> tuple[int, str]:
        """Receive until nothing comes for three seconds; returns exit code and summary."""
        done = subprocess.run(
            [*self._command, "--once", "--idle", "3s", *options],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._log.open("wb") as log:
            process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            wait_until(lambda: "subscribed to" in self._log.read_text(), "the receiver", PATIENCE_S)
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_S)

    def counts(self) -> Counter[int]:
        """Count the raw events by their number."""
        lines = self._output.read_text().splitlines() if self._output.exists() else []
        return Counter(n for line in lines if (n := _number(json.loads(line))) is not None)


def _number(event: Any) -> int | None:
    payload = event.get("payload")
    return payload["n"] if isinstance(payload, dict) and "n" in payload else None


class Trial:
    """One gateway between two brokers, one of which is tried."""

    def __init__(self, folder: Path, local: Side, cloud: Side) -> None:
        self.local, self.cloud = local, cloud
        routes = [
            {"name": f"q{qos}", "topic": f"q{qos}/{{device}}", "qos": qos, "decoder": "json"}
            for qos in (0, 1, 2)
        ]
        downlink = [{"topic": "commands/{device}", "to": "do/{device}"}]
        config = gateway_config(
            folder,
            "",
            local=local.section(),
            cloud=cloud.section() | {"audit": "1s", "downlink": downlink},
            routes=routes,
            windows=[],
        )
        self.gateway = GatewayProcess(config)
        self.receiver = Receiver(cloud, folder)
        self._numbers = 0

    def numbers(self, count: int = COUNT) -> range:
        """Return numbers that no message had yet."""
        first, self._numbers = self._numbers, self._numbers + count
        return range(first, self._numbers)

    def stored(self) -> Counter[int]:
        return Counter(int(str(payload["n"])) for payload in self.gateway.raw_payloads())

    def wait_stored(self, numbers: range, device: Peer) -> None:
        """Wait until all is stored, or until a message that was published behind it is, and a second more."""
        (last,) = self.numbers(1)
        device.publish_all("q1/d", [last], 1)
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            stored = self.stored()
            if all(n in stored for n in numbers):
                return
            if last in stored:
                deadline_s = min(deadline_s, time.monotonic() + 1)
            time.sleep(0.1)

    def wait_synced(self) -> None:
        def synced() -> bool:
            statuses = self.gateway.audit().statuses
            return not statuses["pending"] and not statuses["syncing"]

        wait_until(synced, "events to be in the cloud", PATIENCE_S)


def verdict(found: Counter[int], numbers: range, *, at_least_once: bool = False) -> str:
    """Say how many of `numbers` were lost or came twice."""
    lost = sum(1 for n in numbers if not found[n])
    again = 0 if at_least_once else sum(1 for n in numbers if found[n] > 1)
    said = [f"{lost} of {len(numbers)} lost"] * bool(lost) + [f"{again} of {len(numbers)} twice"] * bool(
        again
    )
    return ", ".join(said) or YES


def try_local(trial: Trial, found: Row) -> None:
    """Try the local broker; the gateway is up, with its subscriptions."""
    gateway, broker = trial.gateway, trial.local.broker
    with Peer(trial.local, "device") as device:
        for qos in (0, 1, 2):
            numbers = trial.numbers()
            if not publish_at(trial.local, f"q{qos}/d", numbers, qos):
                found[f"QoS {qos}"] = "refused"
                continue
            trial.wait_stored(numbers, device)
            found[f"QoS {qos}"] = verdict(trial.stored(), numbers)

        gateway.stop()
        numbers = trial.numbers()
        device.publish_all("q1/d", numbers, 1)
        start(gateway)
        trial.wait_stored(numbers, device)
        found["queue"] = verdict(trial.stored(), numbers)
        try_commands(trial, found, while_away=False)
        found["audit"] = audit(trial)

        numbers = trial.numbers()
        publish_through_a_kill(device, broker, numbers)
        wait_until(lambda: gateway.get("/readyz") is not None, "the gateway to be back", PATIENCE_S)
        trial.wait_stored(numbers, device)
        found["kill -9"] = verdict(trial.stored(), numbers, at_least_once=True)

        gateway.stop()
        numbers = trial.numbers()
        device.publish_all("q1/d", numbers, 1)
        broker.kill()
        broker.start()
        start(gateway)
        trial.wait_stored(numbers, device)
        found["kill -9, queue"] = verdict(trial.stored(), numbers, at_least_once=True)


def try_cloud(trial: Trial, found: Row) -> None:
    """Try the cloud broker; its receiver has a session."""
    broker, receiver = trial.cloud.broker, trial.receiver
    with Peer(trial.local, "device") as device:

        def publish(numbers: range) -> None:
            device.publish_all("q1/d", numbers, 1)
            trial.wait_stored(numbers, device)
            trial.wait_synced()

        numbers = trial.numbers()
        publish(numbers)  # while the receiver is away
        receiver.once()
        found["queue"] = verdict(receiver.counts(), numbers)
        try_commands(trial, found, while_away=True)
        found["audit"] = audit(trial)

        numbers = trial.numbers()
        with receiver.running():
            publish_through_a_kill(device, broker, numbers)
            trial.wait_stored(numbers, device)
            trial.wait_synced()
        receiver.once()
        found["kill -9"] = verdict(receiver.counts(), numbers)
        if found["kill -9"] != YES and receiver.once("--verify")[0] == 0:
            found["kill -9"] += ", not said"

        numbers = trial.numbers()
        publish(numbers)
        broker.kill()
        broker.start()
        receiver.once()
        found["kill -9, queue"] = verdict(receiver.counts(), numbers)


def try_commands(trial: Trial, found: Row, *, while_away: bool) -> None:
    """Send commands to a device; with `while_away` at each QoS, and while the gateway is away."""
    with (
        Peer(trial.local, "switch", [("do/#", 1)]) as switch,
        Peer(trial.cloud, "application") as application,
    ):

        def arrived(numbers: range, qos: int) -> str:
            deadline_s = time.monotonic() + 5
            while time.monotonic() < deadline_s:
                counts = Counter(int(json.loads(payload)["n"]) for payload in switch.payloads)
                if all(counts[n] for n in numbers):
                    break
                time.sleep(0.05)
            return verdict(counts, numbers, at_least_once=qos == 1)

        for qos in (0, 1, 2) if while_away else ():
            numbers = trial.numbers()
            taken = publish_at(trial.cloud, "commands/d", numbers, qos)
            found[f"QoS {qos}"] = arrived(numbers, qos) if taken else "refused"
        if while_away:
            trial.gateway.stop()
        numbers = trial.numbers()
        application.publish_all("commands/d", numbers, 1)
        if while_away:
            start(trial.gateway)
        found["downlink"] = arrived(numbers, 1)


def audit(trial: Trial) -> str:
    """Let the receiver compare its output with the gateway's audit, and the gateway its own balance."""
    trial.wait_synced()
    problems = trial.gateway.audit().problems
    for _ in range(AUDIT_TRIES):  # the last record may be older than the last event
        code, said = trial.receiver.once("--verify")
        if not code and not problems:
            return YES
    sys.stderr.write(f"{problems} {said}\n")
    return "no"


def publish_at(side: Side, topic: str, numbers: range, qos: int) -> bool:
    """Publish from a connection of its own, which a broker may close; returns whether it took everything."""
    with Peer(side, f"publisher-{qos}") as publisher:
        try:
            publisher.publish_all(topic, numbers, qos, REFUSED_AFTER_S)
        except AssertionError:
            return False
    return True


def publish_through_a_kill(device: Peer, broker: OtherBroker, numbers: range) -> None:
    """Publish while a broker, the device's or another, is killed and started again; wait for the device's."""

    def crash() -> None:
        broker.kill()
        broker.start()

    killed = threading.Thread(target=crash)
    sent = []
    for n in numbers:
        if n == numbers[len(numbers) // 2]:
            killed.start()
        sent.append(device.publish("q1/d", n, 1))
        time.sleep(PACE_S)
    killed.join()
    device.wait_acknowledged(sent)


def start(gateway: GatewayProcess) -> None:
    gateway.start()
    gateway.wait_ready()


def row(kind: type[OtherBroker], role: str, protocol: str, folder: Path) -> Row:
    """Run one row of the table."""
    with kind(folder / "tried") as tried, Mosquitto(folder / "other") as other:
        side = Side(tried, protocol)
        if not speaks(side):
            return dict.fromkeys(COLUMNS, f"no MQTT {protocol}")
        there = Side(other, "5")
        trial = Trial(folder, *((side, there) if role == "local" else (there, side)))
        found: Row = {}
        try:
            trial.receiver.once()  # from now on it has a session
            with trial.gateway as gateway:
                gateway.wait_ready()
                (try_local if role == "local" else try_cloud)(trial, found)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            sys.stderr.write(f"{kind.name} {role} {protocol}: {error}\n{trial.gateway.log()[-2000:]}\n")
        return {column: found.get(column, "failed") for column in COLUMNS}


def quick_row(kind: type[OtherBroker], folder: Path) -> Row:
    """Run a row's short form: one broker for both sides, few messages, and a kill if it starts quickly.

    Each message must be stored once and reach the receiver once. Raises AssertionError if anything hangs.
    """
    with kind(folder / "tried") as tried:
        side = Side(tried, "3.1.1")
        trial = Trial(folder, side, side)
        found: Row = {}
        with trial.receiver.running(), trial.gateway as gateway:
            gateway.wait_ready()
            with Peer(side, "device") as device:
                for qos in (0, 1):
                    numbers = trial.numbers(QUICK_COUNT)
                    device.publish_all(f"q{qos}/d", numbers, qos)
                    trial.wait_stored(numbers, device)
                    found[f"QoS {qos}"] = verdict(trial.stored(), numbers)
                sent = range(trial.numbers(0).start)
                wait_until(lambda: len(trial.receiver.counts()) == len(sent), "the receiver", PATIENCE_S)
                found["cloud"] = verdict(trial.receiver.counts(), sent)
                if kind.starts_quickly:
                    restart(trial, tried)
                    numbers = trial.numbers(QUICK_COUNT)
                    device.publish_all("q1/d", numbers, 1)
                    trial.wait_stored(numbers, device)
                    found["after a kill"] = verdict(trial.stored(), numbers)
        return found


def restart(trial: Trial, broker: OtherBroker) -> None:
    """Kill the broker, start it, and wait until both of the gateway's sides are connected again."""
    names = [f'gateway_link_connects_total{{link="{link}"}}' for link in ("ingest", "bridge-0")]
    before = [trial.gateway.metric(name) for name in names]
    broker.kill()
    broker.start()

    def is_back() -> bool:
        now = [trial.gateway.metric(name) for name in names]
        return all(map(float.__gt__, now, before)) and trial.gateway.get("/readyz") is not None

    wait_until(is_back, "the gateway to be back", PATIENCE_S)


def main(names: list[str]) -> None:
    """Fill the table of docs/deployment.md anew, or only the rows of the brokers that are named."""
    cases = [
        (kind, role, protocol)
        for kind in KINDS
        if not names or kind.name.split()[0].lower() in names
        for role in ROLES
        for protocol in PROTOCOLS
    ]
    with ThreadPoolExecutor(WORKERS) as pool:
        for (kind, role, protocol), found in zip(cases, pool.map(tried, cases), strict=True):
            sys.stdout.write(f"{kind.name}, {role}, MQTT {protocol}: {found}\n")
            write(kind.name, role, protocol, found)


def tried(case: tuple[type[OtherBroker], str, str]) -> Row:
    """Run one row, or say why not."""
    kind, role, protocol = case
    if reason := kind.missing():
        sys.stderr.write(f"{kind.name}: {reason}\n")
        return dict.fromkeys(COLUMNS, "not tried")
    with tempfile.TemporaryDirectory() as folder:
        return row(kind, role, protocol, Path(folder))


def rows(page: str) -> dict[tuple[str, str, str], Row]:
    """Read the table: by broker, role and version."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {
        (name, role, protocol): dict(zip(COLUMNS, found, strict=True))
        for name, role, protocol, *found in cells[1:]
    }


def write(name: str, role: str, protocol: str, found: Row) -> None:
    """Replace one row of the table."""
    page = PAGE.read_text()
    table = rows(page) | {(name, role, protocol): found}
    order = [(kind.name, a_role, version) for kind in KINDS for a_role in ROLES for version in PROTOCOLS]
    lines = [f"| broker | as | MQTT | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 3) + "|"]
    lines += [f"| {' | '.join([*key, *table[key].values()])} |" for key in order if key in table]
    before, _, after = page.partition(BEGIN)
    PAGE.write_text("\n".join([before + BEGIN, *lines, END + after.partition(END)[2]]))


if __name__ == "__main__":
    main([name.lower() for name in sys.argv[1:]])
