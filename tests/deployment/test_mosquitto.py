"""The shipped Mosquitto configurations, each tried on a real broker with its own ACL, passwords and keys."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from threading import Event

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.conftest import MosquittoFactory
from tests.support.brokers import Broker
from tests.support.gateways import GatewayProcess, gateway_config
from tests.support.places import ROOT
from tests.support.ports import free_port

SHIPPED = ROOT / "mosquitto"
WAIT_S = 30.0
SECRETS = {
    "GATEWAY_PASSWORD": "gw",
    "HALL_1_PASSWORD": "h1",
    "RECEIVER_PASSWORD": "rx",
    "FLEET_PASSWORD": "fl",
    "DASHBOARD_PASSWORD": "db",
    "HOMEASSISTANT_PASSWORD": "ha",
}
Transport = Callable[[mqtt.Client], object]


@dataclass
class Shipped:
    """A broker that runs a shipped configuration; `ports` are where the file's own listeners went."""

    broker: Broker
    folder: Path
    ports: Mapping[int, int]

    def tls(self, name: str) -> Transport:
        """Settings for a client with the certificate `name` of this broker's authority."""
        certs = self.folder / "certs"
        return lambda paho: paho.tls_set(
            str(certs / "ca.pem"), str(certs / f"{name}.pem"), str(certs / f"{name}.key")
        )


@dataclass
class Peer:
    """One connected client, and what happened to it."""

    paho: mqtt.Client
    arrived: Queue[tuple[str, bytes, int]] = field(default_factory=Queue)
    acks: Queue[ReasonCode] = field(default_factory=Queue)

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> ReasonCode:
        """Publish and wait for the broker's answer (or, at QoS 0, for the socket)."""
        self.paho.publish(topic, payload, qos)
        return self.acks.get(timeout=WAIT_S)

    def subscribe(self, topic_filter: str) -> None:
        done = Event()
        self.paho.on_subscribe = lambda *_: done.set()
        self.paho.subscribe(topic_filter, qos=1)
        assert done.wait(WAIT_S)

    def next(self) -> tuple[str, bytes, int]:
        """Topic, payload and QoS of the next message."""
        return self.arrived.get(timeout=WAIT_S)

    def leave(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


def run_script(folder: Path, name: str, *arguments: str) -> str:
    """Run a shipped script on a copy of it, so that its files land in `folder`."""
    script = shutil.copy(SHIPPED / name, folder)
    done = subprocess.run(
        ["sh", script, *arguments], env={**os.environ, **SECRETS}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


def needs(*programs: str) -> None:
    """CI installs both; elsewhere the scripts have other ways, which these tests do not take."""
    missing = [name for name in programs if not shutil.which(name)]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"needs {' and '.join(missing)}")


def rendered(name: str, folder: Path, uncomment: bool) -> tuple[list[str], dict[int, int]]:
    """The lines of the shipped file with this test's folder and ports in the place of a container's.

    `uncomment` takes the block in that is shipped as a comment: the listener for TLS.
    """
    lines, ports = [], {}
    text = (SHIPPED / name).read_text()
    if uncomment:
        text = re.sub(r"^#(?=[a-z])", "", text, flags=re.MULTILINE)
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#") or words[0] == "persistence_location":
            continue
        if words[0] == "listener":
            ports[int(words[1])] = port = free_port()
            lines.append(f"listener {port} {{bind}}")
        else:
            lines.append(line.replace("/mosquitto/config/", f"{folder}/"))
    return [
        *lines,
        "log_type information",
    ], ports  # which the tests wait for, and a site would be flooded with


def shipped(
    mosquitto: MosquittoFactory,
    folder: Path,
    name: str,
    *,
    clients: Sequence[str] = ("plant-7",),
    uncomment: bool = False,
) -> Shipped:
    """Run the shipped file `name`, with certificates for `clients`."""
    needs("mosquitto_passwd", "openssl")
    run_script(folder, "make-passwords.sh", "hall-1", "homeassistant")
    run_script(folder, "make-certs.sh", *clients)
    kind = name.removesuffix(".conf")
    shutil.copy(folder / "passwords" / kind, folder / "passwords_of_broker")
    shutil.copy(SHIPPED / f"acl.{kind}", folder / "acl")
    for certificate in ("ca.pem", "server.pem", "server.key"):
        shutil.copy(folder / "certs" / certificate, folder)
    lines, ports = rendered(name, folder, uncomment)
    lines = [line.replace("/passwords", "/passwords_of_broker") for line in lines]
    broker = mosquitto(config_lines=lines, persistence=folder, extra_ports=tuple(ports.values()))
    return Shipped(broker, folder, ports)


@pytest.fixture
def local(mosquitto: MosquittoFactory, tmp_path: Path) -> Shipped:
    return shipped(mosquitto, tmp_path, "local.conf")


@pytest.fixture
def cloud(mosquitto: MosquittoFactory, tmp_path: Path) -> Shipped:
    return shipped(mosquitto, tmp_path, "cloud.conf")


def join(
    port: int,
    name: str,
    user: str = "",
    password: str = "",
    *,
    protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311,
    transport: str = "tcp",
    secure: Transport | None = None,
    clean: bool = False,
) -> Peer:
    """A client with a persistent session, unless `clean`, which erases one.

    Raises ConnectionRefusedError when the broker does not want it.
    """
    version_5 = protocol == MQTTProtocolVersion.MQTTv5
    paho = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=name,
        protocol=protocol,
        transport=transport,  # type: ignore[arg-type]
        clean_session=None if version_5 else clean,
    )
    peer = Peer(paho)
    answers: Queue[ReasonCode] = Queue()
    paho.on_connect = lambda _c, _d, _f, reason, _p: answers.put(reason)
    paho.on_publish = lambda _c, _d, _mid, reason, _p: peer.acks.put(reason)
    paho.on_message = lambda _c, _d, m: peer.arrived.put((m.topic, bytes(m.payload), m.qos))
    if user:
        paho.username_pw_set(user, password)
    if secure:
        secure(paho)
    if version_5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        paho.connect("127.0.0.1", port, clean_start=False, properties=properties)
    else:
        paho.connect("127.0.0.1", port)
    paho.loop_start()
    answer = answers.get(timeout=WAIT_S)
    if answer.is_failure:
        peer.leave()
        raise ConnectionRefusedError(str(answer))
    return peer


def gateway_at(local: Shipped) -> Peer:
    return join(local.ports[1885], "gateway", "gateway", "gw")


def fleet_at(local: Shipped) -> Peer:
    return join(local.ports[1883], "fleet", "fleet", "fl")


def test_the_local_broker_keeps_every_message_for_an_absent_gateway_over_a_kill(local: Shipped) -> None:
    gateway = gateway_at(local)
    gateway.subscribe("sensors/#")
    gateway.leave()
    fleet = fleet_at(local)
    sent = [f"{number}".encode() for number in range(1200)]  # more than the 1,000 of a stock Mosquitto
    for payload in sent:
        fleet.publish("sensors/a/reading", payload)
    fleet.subscribe("cmnd/a")  # answered a turn of the broker's loop later, so the last message is saved
    fleet.leave()

    local.broker.kill()
    local.broker.start()

    gateway = gateway_at(local)
    assert [gateway.next()[1] for _ in sent] == sent
    gateway.leave()


@pytest.mark.parametrize("listener", [1883, 9001])
def test_a_device_that_gives_the_client_id_of_the_gateway_does_not_get_its_session(
    local: Shipped, listener: int
) -> None:
    gateway = gateway_at(local)
    gateway.subscribe("sensors/#")
    gateway.leave()
    device = join(local.ports[1883], "hall-1", "hall-1", "h1")
    device.publish("sensors/hall-1/reading", b"queued")
    device.leave()

    transport = "websockets" if listener == 9001 else "tcp"
    thief = join(local.ports[listener], "gateway", "hall-1", "h1", transport=transport, clean=True)
    thief.leave()

    gateway = gateway_at(local)
    assert gateway.next() == ("sensors/hall-1/reading", b"queued", 1)
    gateway.leave()


def test_an_operator_that_gives_the_client_id_of_the_receiver_does_not_get_its_session(
    cloud: Shipped,
) -> None:
    receiver = join(cloud.ports[1883], "receiver", "receiver", "rx")
    receiver.subscribe("gateway/#")
    receiver.leave()
    version = MQTTProtocolVersion.MQTTv5
    gateway = join(cloud.ports[8883], "gateway-plant-7", protocol=version, secure=cloud.tls("plant-7"))
    gateway.publish("gateway/plant-7/audit", b"queued")
    gateway.leave()

    secret = (cloud.folder / "passwords" / "operator.secret").read_text()
    join(cloud.ports[1883], "receiver", "operator", secret, clean=True).leave()

    receiver = join(cloud.ports[1883], "receiver", "receiver", "rx")
    assert receiver.next()[:2] == ("gateway/plant-7/audit", b"queued")
    receiver.leave()


def test_the_local_broker_has_more_than_twenty_messages_in_flight(local: Shipped) -> None:
    """A gateway that has acknowledged nothing yet already holds all of them."""
    gateway = gateway_at(local)
    gateway.paho.manual_ack_set(True)
    gateway.subscribe("sensors/#")
    fleet = fleet_at(local)

    for number in range(100):
        fleet.publish("sensors/a/reading", b"%d" % number)

    assert [int(gateway.next()[1]) for _ in range(100)] == list(range(100))
    fleet.leave()
    gateway.leave()


def test_the_local_broker_queues_what_devices_publish_at_qos_0(local: Shipped) -> None:
    gateway = gateway_at(local)
    gateway.subscribe("tele/#")
    gateway.leave()
    device = join(local.ports[1883], "hall-1", "hall-1", "h1")

    device.publish("tele/hall-1/SENSOR", b"{}", qos=0)
    device.leave()

    gateway = gateway_at(local)
    assert gateway.next() == ("tele/hall-1/SENSOR", b"{}", 1)
    gateway.leave()


def test_a_device_publishes_below_its_own_name_and_nowhere_else(local: Shipped) -> None:
    gateway = gateway_at(local)
    gateway.subscribe("sensors/#")
    device = join(local.ports[1883], "hall-1", "hall-1", "h1", protocol=MQTTProtocolVersion.MQTTv5)

    denied = device.publish("sensors/hall-2/reading", b"forged")
    allowed = device.publish("sensors/hall-1/reading", b"own")

    assert denied == "Not authorized"
    assert not allowed.is_failure
    assert gateway.next() == ("sensors/hall-1/reading", b"own", 1)  # and not the forged one before it
    device.leave()
    gateway.leave()


def test_a_device_does_not_read_what_others_publish(local: Shipped) -> None:
    device = join(local.ports[1883], "hall-1", "hall-1", "h1")
    device.subscribe("#")
    gateway = gateway_at(local)

    gateway.publish("gateway/plant-7/aggregates/temp_1m/hall", b"not for devices")
    gateway.publish("gateway/plant-7/backpressure", b"slow down")

    assert device.next()[0] == "gateway/plant-7/backpressure"
    gateway.leave()
    device.leave()


@pytest.mark.parametrize(("user", "password"), [("", ""), ("gateway", "wrong"), ("nobody", "gw")])
def test_the_local_broker_refuses_who_it_does_not_know(local: Shipped, user: str, password: str) -> None:
    with pytest.raises(ConnectionRefusedError, match=r"(?i)not authori[sz]ed"):
        join(local.ports[1883], "stranger", user, password)


def test_a_dashboard_reads_aggregates_over_websockets_and_home_assistant_what_it_is_told(
    local: Shipped, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = gateway_config(
        tmp_path_factory.mktemp("gateway"),
        "unused",
        local={"url": f"mqtt://127.0.0.1:{local.ports[1885]}", "username": "gateway", "password": "gw"},
        home_assistant={},
    )
    dashboard = join(local.ports[9001], "in-a-browser", "dashboard", "db", transport="websockets")
    dashboard.subscribe("gateway/+/aggregates/#")
    home_assistant = join(local.ports[9001], "ha", "homeassistant", "ha", transport="websockets")
    home_assistant.subscribe("homeassistant/sensor/+/+/config")
    dashboard.publish("gateway/g1/aggregates/minute/a", b"a dashboard only reads")
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        fleet = fleet_at(local)
        for time_ms in (1700000000000, 1700000090000):
            fleet.publish("sensors/a", b'{"v": 3, "t": %d}' % time_ms)
        topic, payload, _ = dashboard.next()
        assert (topic, json.loads(payload)["result"]["mean"]) == ("gateway/g1/aggregates/minute/a", 3)
        told = [json.loads(home_assistant.next()[1])["state_topic"] for _ in range(2)]
        assert told == ["gateway/g1/backpressure", "gateway/g1/home_assistant/minute/a"]
    for peer in (fleet, dashboard, home_assistant):
        peer.leave()


def test_a_gateway_with_a_certificate_publishes_to_the_cloud_below_its_id_only(cloud: Shipped) -> None:
    receiver = join(cloud.ports[1883], "receiver", "receiver", "rx")
    receiver.subscribe("gateway/#")
    gateway = join(
        cloud.ports[8883],
        "gateway-plant-7",
        protocol=MQTTProtocolVersion.MQTTv5,
        secure=cloud.tls("plant-7"),
    )

    denied = gateway.publish("gateway/plant-8/up/batch/0", b"forged")
    allowed = gateway.publish("gateway/plant-7/up/batch/0", b"own")

    assert denied == "Not authorized"
    assert not allowed.is_failure
    assert receiver.next()[:2] == ("gateway/plant-7/up/batch/0", b"own")
    gateway.leave()
    receiver.leave()


def test_only_the_receiver_confirms_to_a_gateway_and_only_that_gateway_hears_it(cloud: Shipped) -> None:
    receiver = join(cloud.ports[1883], "receiver", "receiver", "rx", protocol=MQTTProtocolVersion.MQTTv5)
    gateway = join(
        cloud.ports[8883],
        "gateway-plant-7",
        protocol=MQTTProtocolVersion.MQTTv5,
        secure=cloud.tls("plant-7"),
    )
    gateway.subscribe("gateway/plant-7/down/confirm")
    gateway.subscribe("gateway/plant-8/down/confirm")

    assert not receiver.publish("gateway/plant-8/down/confirm", b"another's").is_failure
    assert not receiver.publish("gateway/plant-7/down/confirm", b"its own").is_failure
    assert gateway.next()[:2] == ("gateway/plant-7/down/confirm", b"its own")
    assert gateway.publish("gateway/plant-8/down/confirm", b"forged") == "Not authorized"
    assert receiver.publish("gateway/plant-7/up/batch/0", b"forged") == "Not authorized"
    gateway.leave()
    receiver.leave()


def test_the_cloud_broker_keeps_what_it_acknowledged_over_a_kill(cloud: Shipped) -> None:
    receiver = join(cloud.ports[1883], "receiver", "receiver", "rx")
    receiver.subscribe("gateway/#")
    receiver.leave()
    gateway = join(cloud.ports[8883], "gateway-plant-7", secure=cloud.tls("plant-7"))
    for number in range(100):
        gateway.publish("gateway/plant-7/up/batch/0", b"%d" % number)
    gateway.subscribe("gateway/plant-7/downlink")  # answered after the save, as above
    gateway.leave()

    cloud.broker.kill()
    cloud.broker.start()

    receiver = join(cloud.ports[1883], "receiver", "receiver", "rx")
    assert [int(receiver.next()[1]) for _ in range(100)] == list(range(100))
    receiver.leave()


def test_the_cloud_broker_wants_a_certificate_of_its_own_authority(cloud: Shipped, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    run_script(stranger, "make-certs.sh", "plant-7")
    forged, own = stranger / "certs", cloud.folder / "certs"

    for files in ((), (str(forged / "plant-7.pem"), str(forged / "plant-7.key"))):
        context = ssl.create_default_context(cafile=str(own / "ca.pem"))
        if files:
            context.load_cert_chain(*files)
        assert not tls_client_is_answered(cloud.ports[8883], context)

    context = ssl.create_default_context(cafile=str(own / "ca.pem"))
    context.load_cert_chain(own / "plant-7.pem", own / "plant-7.key")
    assert tls_client_is_answered(cloud.ports[8883], context)


def tls_client_is_answered(port: int, context: ssl.SSLContext) -> bool:
    """Whether an MQTT CONNECT gets a CONNACK; TLS 1.3 refuses a client only after its own handshake."""
    with ssl.create_connection(("127.0.0.1", port), WAIT_S) as plain:  # type: ignore[attr-defined]
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as secure:
                secure.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")  # clean, no client id
                return secure.recv(4) == b"\x20\x02\x00\x00"
        except (ssl.SSLError, ConnectionError):
            return False


def test_passwords_are_kept_over_runs_and_devices_are_added(tmp_path: Path) -> None:
    needs("mosquitto_passwd")
    run_script(tmp_path, "make-passwords.sh", "hall-2")
    made = (tmp_path / "passwords" / "hall-2.secret").read_text()

    run_script(tmp_path, "make-passwords.sh", "hall-3")

    assert (tmp_path / "passwords" / "hall-2.secret").read_text() == made
    assert len(made) == 24
    users = [line.split(":")[0] for line in (tmp_path / "passwords" / "local").read_text().splitlines()]
    assert users == ["gateway", "dashboard", "zigbee2mqtt", "fleet", "hall-2", "hall-3"]


@pytest.mark.parametrize("script", ["make-passwords.sh", "make-certs.sh"])
def test_a_name_that_could_not_stand_in_a_topic_is_refused(tmp_path: Path, script: str) -> None:
    with pytest.raises(AssertionError, match="use A-Z"):
        run_script(tmp_path, script, "hall/#")


def test_what_the_scripts_make_is_readable_by_containers_but_not_by_other_users(tmp_path: Path) -> None:
    needs("mosquitto_passwd", "openssl")
    run_script(tmp_path, "make-passwords.sh")
    run_script(tmp_path, "make-certs.sh", "plant-7")

    for folder in (tmp_path / "passwords", tmp_path / "certs"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "passwords" / "gateway.secret").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "certs" / "plant-7.key").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "certs" / "ca.key").stat().st_mode & 0o777 == 0o600
