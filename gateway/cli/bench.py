"""`gateway bench`: what a bare paho receiver takes on this machine, and what the whole gateway sustains."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from gateway.core.errors import GatewayError
from gateway.host.ports import free_port
from gateway.lab.load import publish_all, reserve_session
from gateway.mqtt.baseline_receiver import receive_all
from gateway.wire.signatures import new_key

HOST = "127.0.0.1"
DEVICES = 1000
_CLIENT = "gateway-bench"
_TIMEOUT_S = 300.0
_START_TIMEOUT_S = 30.0
_SIGNING_ROUNDS = 3
_SIGNING_LOOK_EVERY_S = 1.0
_RECORDS = "gateway_audit_records_total"
_LOOK_EVERY_S = 0.1  # each look costs the gateway some milliseconds


def bench(
    messages: Annotated[int, typer.Option(min=1000, help="QoS 1 messages per measurement.")] = 100_000,
    in_flight: Annotated[int, typer.Option(min=1, help="The broker's max_inflight_messages.")] = 1000,
    signing: Annotated[
        bool, typer.Option("--signing", help="Measure the processor time that signing costs, and only that.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a bare paho receiver and the whole gateway side by side: durable, one stats window over all
    streams, bridge on. With windows of a minute every sixth message of this data ends one; with windows of an
    hour nearly none does. Needs the `mosquitto` program; brokers and data are temporary."""
    if signing:
        _print_signing(messages, in_flight, as_json)
        return
    rows = {
        f"bare paho receiver, window {in_flight}": _bare(messages, in_flight),
        **_gateway(messages, in_flight, f"window {in_flight}"),
        **_gateway(messages, in_flight, f"windows of an hour, window {in_flight}", size="1h"),
        **_gateway(messages // 4, 20, "window 20"),
    }
    if as_json:
        typer.echo(json.dumps({name: round(rate) for name, rate in rows.items()}))
        return
    bare = next(iter(rows.values()))
    table = Table("what", "messages/s", "of the bare receiver", title=f"{messages} QoS 1 messages")
    for name, rate in rows.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / bare:.2f}")
    Console().print(table)


def _bare(messages: int, in_flight: int) -> float:
    with _broker(in_flight) as (port, _):
        reserve_session(HOST, port, _CLIENT, "bench/+")
        publish_all(HOST, port, _fleet(messages))
        return receive_all(HOST, port, _CLIENT, messages)


def _print_signing(messages: int, in_flight: int, as_json: bool) -> None:
    """Print the processor time of a message without and with a key, in runs that alternate."""
    rounds = [
        [_processor_us(messages, in_flight, signed=signed) for signed in (False, True)]
        for _ in range(_SIGNING_ROUNDS)
    ]
    plain_us, signed_us = (sum(column) / len(rounds) for column in zip(*rounds, strict=True))
    if as_json:
        typer.echo(json.dumps({"plain_us": round(plain_us, 2), "signed_us": round(signed_us, 2)}))
        return
    table = Table(
        "round", "without a key", "signed", "more", title=f"Processor µs of {messages} messages each"
    )
    for number, (plain, signed) in enumerate(rounds, 1):
        table.add_row(str(number), f"{plain:.2f}", f"{signed:.2f}", f"{signed / plain - 1:+.1%}")
    table.add_row("mean", f"{plain_us:.2f}", f"{signed_us:.2f}", f"{signed_us / plain_us - 1:+.1%}")
    Console().print(table)


def _processor_us(messages: int, in_flight: int, *, signed: bool) -> float:
    """Microseconds of processor time that the gateway takes for a message, until an audit record has told
    of it in the cloud. With few looks at it, which would count too."""
    with _started(messages, in_flight, "1h", audit="5s", signed=signed) as http:
        began_s = _scrape(http)["process_cpu_seconds_total"]
        _watch(http, messages, _SIGNING_LOOK_EVERY_S)
        records = _scrape(http).get(_RECORDS, 0.0)
        deadline_s = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline_s:
            numbers = _scrape(http)
            sealed = numbers.get("gateway_audit_sealed_events_total", 0.0)
            if numbers.get(_RECORDS, 0.0) > records and (sealed >= messages or not signed):
                return (numbers["process_cpu_seconds_total"] - began_s) / messages * 1e6
            time.sleep(_SIGNING_LOOK_EVERY_S)
    raise GatewayError(f"the gateway did not tell of {messages} messages in {_TIMEOUT_S:g} s")


def _gateway(messages: int, in_flight: int, label: str, size: str = "1m") -> dict[str, float]:
    """The rates at which queued messages become durable, and at which they reach the cloud broker."""
    with _started(messages, in_flight, size) as http:
        durable, synced = _watch(http, messages)
        return {f"gateway, durable, {label}": durable, f"gateway, in the cloud, {label}": synced}


@contextmanager
def _started(
    messages: int, in_flight: int, size: str, *, audit: str = "", signed: bool = False
) -> Iterator[int]:
    """A gateway that begins to take queued messages; gives the port of its page.

    The local broker holds still until the gateway can be looked at, so that nothing comes unseen.
    """
    with ExitStack() as stack:
        local, holder = stack.enter_context(_broker(in_flight))
        cloud, _ = stack.enter_context(_broker(1000))
        reserve_session(HOST, local, _CLIENT, "bench/+")
        publish_all(HOST, local, _fleet(messages))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        http = free_port(HOST)
        config = folder / "bench.yaml"
        settings = _config(local, cloud, http, size)
        if audit:
            settings["cloud"]["audit"] = audit
        if signed:
            (folder / "key").write_bytes(new_key()[0])
            settings["gateway"]["signing_key_file"] = "key"
        config.write_text(yaml.safe_dump(settings))
        holder.send_signal(signal.SIGSTOP)
        stack.callback(holder.send_signal, signal.SIGCONT)  # or it could not end
        stack.enter_context(_running([sys.executable, "-m", "gateway", "run", "-c", str(config)]))
        _wait_until_seen(http)
        holder.send_signal(signal.SIGCONT)
        yield http


def _watch(http_port: int, messages: int, look_every_s: float = _LOOK_EVERY_S) -> tuple[float, float]:
    """Messages per second until all are buffered, and until all are synced."""
    began_s, durable_s = time.monotonic(), 0.0
    deadline_s = began_s + _TIMEOUT_S
    while time.monotonic() < deadline_s:
        numbers = _scrape(http_port)
        buffered = numbers.get('gateway_messages_total{outcome="buffered"}', 0.0)
        synced = numbers.get('gateway_buffer_events{status="synced"}', 0.0)
        took_s = time.monotonic() - began_s
        if not durable_s and buffered >= messages:
            durable_s = took_s
        if durable_s and synced >= messages:
            return messages / durable_s, messages / took_s
        time.sleep(look_every_s)
    raise GatewayError(f"the gateway did not take {messages} messages in {_TIMEOUT_S:g} s")


def _wait_until_seen(http_port: int) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while not _scrape(http_port):
        if time.monotonic() > deadline_s:
            raise GatewayError(f"the gateway did not start in {_START_TIMEOUT_S:g} s")
        time.sleep(_LOOK_EVERY_S)


def _scrape(port: int) -> dict[str, float]:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}  # it is still starting
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] != "#"}


def _fleet(messages: int) -> Iterator[tuple[str, bytes]]:
    start_ms = 1_700_000_000_000
    for number in range(messages):
        reading = {
            "Time": start_ms + number * 10,
            "BME280": {"Temperature": 20 + number * 7 % 100 / 10, "Humidity": 50 + number * 3 % 200 / 10},
            "TempUnit": "C",
        }
        yield f"bench/dev{number % DEVICES}", json.dumps(reading).encode()


def _config(local: int, cloud: int, http: int, size: str) -> dict[str, Any]:
    return {
        "gateway": {"id": "bench", "data_dir": "data"},
        "local": {"url": f"mqtt://{HOST}:{local}", "client_id": _CLIENT},
        "cloud": {"url": f"mqtt://{HOST}:{cloud}"},
        "http": {"listen": f"{HOST}:{http}"},
        "routes": [
            {
                "name": "bench",
                "topic": "bench/{device}",
                "fields": {"temperature": "BME280.Temperature"},
                "timestamp_path": "Time",
                "timestamp_format": "unix_ms",
                "timestamp": "trusted",
            }
        ],
        "windows": [
            {
                "name": "all",
                "route": "bench",
                "field": "temperature",
                "key": "{device}",
                "window": {"type": "tumbling", "size": size},
                "watermark": "shared",
                "out_of_orderness": "10s",
            }
        ],
    }


@contextmanager
def _broker(in_flight: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        raise GatewayError("the program mosquitto is not here", hint="install the package mosquitto")
    port = free_port(HOST)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(
            f"listener {port} {HOST}\nallow_anonymous true\npersistence false\n"
            f"max_queued_messages 0\nmax_inflight_messages {in_flight}\nset_tcp_nodelay true\n"
        )
        with _running([program, "-c", str(config)]) as process:
            _wait_for(port)
            yield port, process


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int) -> None:
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        try:
            reserve_session(HOST, port, "probe", "probe")
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise GatewayError("mosquitto does not answer")
