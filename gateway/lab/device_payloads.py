"""Messages of simulated devices: topic and payload of a reading, in the layout of real systems."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import orjson


class DevicePayload(NamedTuple):
    """A measurement of a device, by its own clock."""

    device: str
    turn: int
    """Number of readings before this one."""
    time_ms: int
    temperature: float
    humidity: float
    pressure: float


def _tasmota(reading: DevicePayload) -> tuple[str, bytes, int]:
    """Whole seconds, without a zone: Tasmota's default, here in UTC."""
    sensor = {"Temperature": reading.temperature, "Humidity": reading.humidity, "Pressure": reading.pressure}
    time_ms = reading.time_ms // 1000 * 1000
    body = {"Time": _iso(time_ms)[:19], "BME280": sensor, "PressureUnit": "hPa", "TempUnit": "C"}
    return f"tele/{reading.device}/SENSOR", orjson.dumps(body), time_ms


def _zigbee2mqtt(reading: DevicePayload) -> tuple[str, bytes, int]:
    """Return a message of Zigbee2MQTT with `last_seen: ISO_8601`."""
    body = {
        "battery": 100,
        "humidity": reading.humidity,
        "last_seen": _iso(reading.time_ms) + "Z",
        "linkquality": 120,
        "pressure": reading.pressure,
        "temperature": reading.temperature,
    }
    return f"zigbee2mqtt/{reading.device}", orjson.dumps(body), reading.time_ms


def _plain(reading: DevicePayload) -> tuple[str, bytes, int]:
    """A bare number: the receiver has only the time of arrival."""
    return f"sensors/{reading.device}/temperature", b"%.2f" % reading.temperature, reading.time_ms


def _shelly_gen2(reading: DevicePayload) -> tuple[str, bytes, int]:
    """A notification of the add-on's sensors."""
    sensors = {
        "temperature:100": {"id": 100, "tC": reading.temperature},
        "humidity:100": {"id": 100, "rh": reading.humidity},
    }
    body = {
        "src": reading.device,
        "dst": f"{reading.device}/events",
        "method": "NotifyStatus",
        "params": {"ts": reading.time_ms / 1000, **sensors},
    }
    return f"{reading.device}/events/rpc", orjson.dumps(body), reading.time_ms


def _esphome(reading: DevicePayload) -> tuple[str, bytes, int]:
    """A bare number, as `_plain`."""
    return f"{reading.device}/sensor/temperature/state", b"%.1f" % reading.temperature, reading.time_ms


def _statestream(reading: DevicePayload) -> tuple[str, bytes, int]:
    """A state of Home Assistant as text."""
    topic = f"homeassistant/sensor/{reading.device}_temperature/state"
    return topic, b"%.1f" % reading.temperature, reading.time_ms


def _json(reading: DevicePayload) -> tuple[str, bytes, int]:
    """A flat object with the time of the device, as many home-made devices send it."""
    body = {"temperature": reading.temperature, "humidity": reading.humidity, "ts": reading.time_ms // 1000}
    return f"sensors/{reading.device}", orjson.dumps(body), reading.time_ms // 1000 * 1000


def _chirpstack(reading: DevicePayload) -> tuple[str, bytes, int]:
    """An uplink that a codec has read."""
    body = {
        "time": _iso(reading.time_ms) + "+00:00",
        "deviceInfo": {"applicationId": "fleet", "devEui": reading.device},
        "fPort": 1,
        "object": {"temperature": reading.temperature, "humidity": reading.humidity},
        "rxInfo": [{"gatewayId": "0016c001f153a14c", "rssi": -90, "snr": 7.5}],
    }
    topic = f"application/fleet/device/{reading.device}/event/up"
    return topic, orjson.dumps(body), reading.time_ms


def _shelly_gen1(reading: DevicePayload) -> tuple[str, bytes, int]:
    """A bare number, as `_plain`."""
    topic = f"shellies/{reading.device}/sensor/temperature"
    return topic, b"%.2f" % reading.temperature, reading.time_ms


def _ttn(reading: DevicePayload) -> tuple[str, bytes, int]:
    """An uplink that a payload formatter has read."""
    uplink = {
        "f_port": 1,
        "f_cnt": reading.turn,
        "decoded_payload": {"temperature": reading.temperature, "humidity": reading.humidity},
        "rx_metadata": [{"gateway_ids": {"gateway_id": "fleet"}, "rssi": -90, "snr": 7.5}],
        "received_at": _iso(reading.time_ms) + "Z",
    }
    body = {"end_device_ids": {"device_id": reading.device}, "uplink_message": uplink}
    return f"v3/fleet@ttn/devices/{reading.device}/up", orjson.dumps(body), reading.time_ms


def _owntracks(reading: DevicePayload) -> tuple[str, bytes, int]:
    """A walk near Berlin: the reading's two values steer it. Whole seconds."""
    time_ms = reading.time_ms // 1000 * 1000
    body = {
        "_type": "location",
        "lat": round(52.5 + reading.temperature / 1000, 6),
        "lon": round(13.4 + reading.humidity / 1000, 6),
        "acc": 12,
        "tst": time_ms // 1000,
    }
    return f"owntracks/fleet/{reading.device}", orjson.dumps(body), time_ms


def _senml(reading: DevicePayload) -> tuple[str, bytes, int]:
    """A pack of two records."""
    name, time_s = f"urn:dev:mac:{reading.device}:", reading.time_ms / 1000
    pack = [
        {"bn": name, "bt": time_s, "n": "temperature", "u": "Cel", "v": reading.temperature},
        {"n": "humidity", "u": "%RH", "v": reading.humidity},
    ]
    return "channels/fleet/messages", orjson.dumps(pack), reading.time_ms


def _sparkplug(reading: DevicePayload) -> tuple[str, bytes, int]:
    """An edge node: its birth first, then data by alias, numbered 0 to 255. It does not hear commands."""
    from gateway.decode.decoders.sparkplug import Payload  # noqa: PLC0415 - needs an extra

    payload = Payload(timestamp=reading.time_ms, seq=reading.turn % 256)
    is_birth = reading.turn == 0
    if is_birth:
        payload.metrics.add(name="bdSeq", timestamp=reading.time_ms, datatype=_INT64, long_value=0)
    values = (("temperature", reading.temperature), ("humidity", reading.humidity))
    for alias, (name, value) in enumerate(values, start=1):
        born = {"name": name, "datatype": _DOUBLE} if is_birth else {}
        payload.metrics.add(alias=alias, timestamp=reading.time_ms, double_value=value, **born)
    kind = "NBIRTH" if is_birth else "NDATA"
    return f"spBv1.0/fleet/{kind}/{reading.device}", payload.SerializeToString(), reading.time_ms


_INT64, _DOUBLE = 4, 10  # Sparkplug's data types

PRESETS: dict[str, Callable[[DevicePayload], tuple[str, bytes, int]]] = {
    "tasmota": _tasmota,
    "zigbee2mqtt": _zigbee2mqtt,
    "plain": _plain,
    "json": _json,
    "statestream": _statestream,
    "shelly_gen2": _shelly_gen2,
    "esphome": _esphome,
    "chirpstack": _chirpstack,
    "shelly_gen1": _shelly_gen1,
    "ttn": _ttn,
    "owntracks": _owntracks,
    "senml": _senml,
    "sparkplug": _sparkplug,
}
"""Each makes topic, payload, and the time in the payload (ms) of a reading; see `lab.fleet_simulator`."""


def _iso(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms / 1000, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds")
