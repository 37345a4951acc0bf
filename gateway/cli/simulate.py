"""`gateway simulate`: a fleet of devices, to try a gateway or a broker with."""

from __future__ import annotations

import json
import signal
import threading
import time
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from gateway.cli import connecting
from gateway.core.errors import UnitError
from gateway.core.units import format_duration, parse_duration_ms
from gateway.decode.presets import missing_extra_of
from gateway.host.logs import set_up_logging
from gateway.lab.fleet_publisher import Fleet
from gateway.lab.fleet_simulator import FleetSpec, Outage
from gateway.lab.fleet_simulator import simulate as simulated
from gateway.mqtt.link import Link

_CONNECT_TIMEOUT_S = 10.0
_LAST_ACKS_S = 10.0  # how long the end waits for acknowledgements of a broker that has stopped answering


class Preset(StrEnum):
    """Layout of the devices' topics and payloads."""

    TASMOTA = "tasmota"
    ZIGBEE2MQTT = "zigbee2mqtt"
    PLAIN = "plain"
    JSON = "json"
    STATESTREAM = "statestream"
    SHELLY_GEN1 = "shelly_gen1"
    SHELLY_GEN2 = "shelly_gen2"
    ESPHOME = "esphome"
    CHIRPSTACK = "chirpstack"
    TTN = "ttn"
    OWNTRACKS = "owntracks"
    SENML = "senml"
    SPARKPLUG = "sparkplug"


def simulate(
    *,
    url: connecting.Url,
    devices: Annotated[int, typer.Option("--devices", min=1, help="Number of devices.")] = 100,
    rate: Annotated[float, typer.Option("--rate", min=0.001, help="Messages per second, in total.")] = 500.0,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0, help="Stop after this time.")] = None,
    count: Annotated[int | None, typer.Option("--count", min=0, help="Stop after N readings.")] = None,
    preset: Annotated[Preset, typer.Option("--preset", help="Topics and payloads.")] = Preset.TASMOTA,
    skew: Annotated[str, typer.Option("--skew", help="Largest error of the devices' clocks.")] = "0",
    disorder: Annotated[
        float, typer.Option("--disorder", min=0, max=1, help="Fraction that is delayed up to 2s.")
    ] = 0.0,
    late: Annotated[
        float, typer.Option("--late", min=0, max=1, help="Fraction that is delayed 10s to 60s.")
    ] = 0.0,
    duplicates: Annotated[
        float, typer.Option("--duplicates", min=0, max=1, help="Fraction that is sent twice.")
    ] = 0.0,
    outage: Annotated[
        str | None, typer.Option("--outage", help="Pause publishing from FROM for LENGTH: 10s+5s.")
    ] = None,
    qos: Annotated[int, typer.Option("--qos", min=0, max=1, help="MQTT quality of service.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same messages.")] = 1,
    client_id: Annotated[str, typer.Option("--client-id", help="MQTT client id.")] = "gateway-simulate",
    protocol: connecting.Protocol = "3.1.1",
    username: connecting.Username = None,
    password_file: connecting.PasswordFile = None,
    ca_file: connecting.CaFile = None,
    cert_file: connecting.CertFile = None,
    key_file: connecting.KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Publish like a fleet of devices, until --seconds or --count is reached, or Ctrl-C.

    Connections that break are made again, and what was not acknowledged is sent again.
    Exits with 0 when the broker acknowledged everything, else with 1.
    """
    if extra := missing_extra_of(preset.value):
        raise typer.BadParameter(
            f"{preset.value} needs more packages: pip install 'mqtt-edge-gateway[{extra}]'",
            param_hint="'--preset'",
        )
    endpoint = connecting.endpoint(
        url,
        client_id,
        protocol=protocol,
        username=username,
        password_file=password_file,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )
    spec = FleetSpec(
        devices=devices,
        rate_per_s=rate,
        preset=preset.value,
        count=_count(count, seconds, rate),
        skew_ms=_duration_ms(skew, "--skew"),
        disorder=disorder,
        late=late,
        duplicates=duplicates,
        outage=_outage(outage),
        seed=seed,
    )
    set_up_logging("warning", "text")
    fleet = Fleet(simulated(spec, time.time_ns() // 1_000_000), qos=qos)
    link = Link("simulate", endpoint, fleet)
    started = time.monotonic()
    problem = _run(fleet, link)
    elapsed_s = time.monotonic() - started
    typer.echo(json.dumps(_result(fleet, elapsed_s)) if as_json else _text(fleet, qos, elapsed_s))
    if problem:
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(1)


def _run(fleet: Fleet, link: Link) -> str:
    """Publish until the fleet has finished or is stopped by a signal; returns the error."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    link.start()
    connect_until_s = time.monotonic() + _CONNECT_TIMEOUT_S
    with Console(stderr=True).status("connecting …") as status:
        while not stop.is_set() and not fleet.finished.wait(0.2):
            status.update(f"{fleet.sent:,} sent, {fleet.acknowledged:,} acknowledged")
            if not link.metrics.connects and time.monotonic() > connect_until_s:
                link.stop()
                return f"no connection to the broker: {link.metrics.last_error}"
    fleet.stop()
    link.wake()
    fleet.finished.wait(_LAST_ACKS_S)
    link.stop()
    if fleet.refused:
        return f"the broker refused {fleet.refused} messages"
    return f"{fleet.unanswered} messages were not acknowledged" if fleet.unanswered else ""


def _result(fleet: Fleet, elapsed_s: float) -> dict[str, object]:
    return {
        "published": fleet.sent,
        "acknowledged": fleet.acknowledged,
        "refused": fleet.refused,
        "repeated": fleet.repeated,
        "unanswered": fleet.unanswered,
        "seconds": round(elapsed_s, 3),
    }


def _text(fleet: Fleet, qos: int, elapsed_s: float) -> str:
    rate = fleet.sent / elapsed_s if elapsed_s else 0.0
    lines = [f"published     {fleet.sent:,} messages in {format_duration(elapsed_s)}, {rate:,.0f}/s"]
    if qos:
        lines.append(f"acknowledged  {fleet.acknowledged:,}")
    if fleet.repeated:
        lines.append(f"repeated      {fleet.repeated:,} after a lost connection")
    return "\n".join(lines)


def _count(count: int | None, seconds: float | None, rate: float) -> int | None:
    if count is not None and seconds is not None:
        raise typer.BadParameter("give --seconds or --count, not both", param_hint="--count")
    return round(seconds * rate) if seconds is not None else count


def _duration_ms(text: str, option: str) -> int:
    try:
        return parse_duration_ms(text)
    except UnitError as exc:
        raise typer.BadParameter(f"{exc}; {exc.hint}", param_hint=option) from exc


def _outage(text: str | None) -> Outage | None:
    if text is None:
        return None
    start, plus, length = text.partition("+")
    if not plus:
        raise typer.BadParameter("write FROM+LENGTH, such as 10s+5s", param_hint="--outage")
    return Outage(_duration_ms(start, "--outage"), _duration_ms(length, "--outage"))
