"""Routes for systems that people already have: `preset: tasmota` in a route stands for what is listed here.

Each preset is a route as it could stand in a file. Some systems publish in several shapes and need several:
they are in SETS. Times before a device's clock was set (uptime, 1970) are no times: `timestamp_min`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from gateway.decode.decoders import missing_extra

Settings = Mapping[str, object]

# No system in here is older, and no clock that was never set shows a later time.
_CLOCK_SET = "2015-01-01"

# A time that a server with a clock of its own took, or a device that saves up readings and says so.
_TRUSTED: Settings = {"timestamp": "trusted", "timestamp_min": _CLOCK_SET, "timestamp_max": "5m"}

# What components have one level deeper: counters of energy and of pulses, the battery of what sleeps.
_SHELLY_DEEPER = (
    "{energy: aenergy.total, returned_energy: ret_aenergy.total, counts: counts.total, "
    "temperature: temperature.tC, battery: battery.percent, battery_voltage: battery.V}"
)

_SHELLY_RPC: Settings = {
    "topic": "{device}/events/rpc",
    "readings": f"sections(params, 'component')[].merge(@, {_SHELLY_DEEPER})",
    "timestamp_path": "params.ts",
    "timestamp_format": "unix",
    "timestamp_min": _CLOCK_SET,
}

# No time: `aenergy.minute_ts` is that of the last full minute of the energy counter.
_SHELLY_STATUS: Settings = {
    "topic": "{device}/status/{component}",
    "readings": f"[merge(@, {_SHELLY_DEEPER})]",
}

PRESETS: Mapping[str, Settings] = MappingProxyType(
    {
        "tasmota": {
            "topic": "tele/{device}/SENSOR",
            # Sensors without a name share the empty one, so that all but the last would be lost.
            "payload": {"duplicates": "number"},
            "readings": "sensors(@, 'sensor')",
            "timestamp_path": "Epoch || Time",
            "timestamp_format": "unix or iso",
            "timestamp_min": _CLOCK_SET,
        },
        "tasmota_state": {
            "topic": "tele/{device}/STATE",
            "readings": "[merge(@, {RSSI: Wifi.RSSI, Signal: Wifi.Signal})]",
            "timestamp_path": "Epoch || Time",
            "timestamp_format": "unix or iso",
            "timestamp_min": _CLOCK_SET,
        },
        "zigbee2mqtt": {
            "topic": "zigbee2mqtt/{device}",
            "timestamp_path": "last_seen",
            "timestamp_format": "unix_ms or iso",
            "timestamp_min": _CLOCK_SET,
        },
        "shelly_gen1": {"topic": "shellies/{device}/emeter/{channel}/{quantity}", "decoder": "number"},
        "shelly_gen1_power": {"topic": "shellies/{device}/relay/{channel}/power", "decoder": "number"},
        "shelly_gen1_energy": {"topic": "shellies/{device}/relay/{channel}/energy", "decoder": "number"},
        "shelly_gen1_sensor": {
            "topic": "shellies/{device}/sensor/{quantity}",
            "decoder": "text",
            "fields": {"value": "scalar(@)"},
        },
        "shelly_gen1_info": {
            "topic": "shellies/{device}/info",
            "readings": "[merge(@, {rssi: wifi_sta.rssi, power: meters[0].power, temperature: tmp.tC})]",
            "timestamp_path": "unixtime",
            "timestamp_format": "unix",
            "timestamp_min": _CLOCK_SET,
        },
        **dict.fromkeys(("shelly_gen2", "shelly_gen3", "shelly_gen4"), _SHELLY_RPC),
        **{f"shelly_gen{number}_status": _SHELLY_STATUS for number in (2, 3, 4)},
        # Home Assistant's integration of that name. Retained, without a time.
        "statestream": {
            "topic": "homeassistant/{domain}/{entity}/state",
            "decoder": "text",
            "fields": {"value": "scalar(@)"},
            "retained": "ignore",
        },
        # Retained by default and without a time: what comes again on each subscription may be of any age.
        "esphome": {"topic": "{device}/sensor/{sensor}/state", "decoder": "number", "retained": "ignore"},
        "esphome_binary": {
            "topic": "{device}/binary_sensor/{sensor}/state",
            "decoder": "text",
            "fields": {"value": {"from": "@", "map": {"ON": True, "OFF": False}}},
            "retained": "ignore",
        },
        "chirpstack": {
            "topic": "application/{application}/device/{device}/event/up",
            "readings": "[merge(flat(object || parse_json(objectJSON)), {rssi: rxInfo[0].rssi, "
            "snr: rxInfo[0].snr || rxInfo[0].loRaSNR, f_cnt: fCnt})]",
            "timestamp_path": "time || rxInfo[0].time",
            **_TRUSTED,
        },
        "chirpstack_gateway": {
            "topic": "{region}/gateway/{device}/event/stats",
            "timestamp_path": "time",
            **_TRUSTED,
        },
        "ttn": {
            "topic": "v3/{application}/devices/{device}/up",
            "readings": "uplink_message.decoded_payload.history || "
            "[merge(flat(uplink_message.decoded_payload), {rssi: uplink_message.rx_metadata[0].rssi, "
            "snr: uplink_message.rx_metadata[0].snr, f_cnt: uplink_message.f_cnt})]",
            "timestamp_path": "timestamp || uplink_message.received_at || received_at",
            "timestamp_format": "unix or iso",
            **_TRUSTED,
        },
        # Retained, with the time of the fix: on each subscription the last one comes again.
        "owntracks": {
            "topic": "owntracks/{user}/{device}",
            "readings": "[@][?_type=='location']",
            "timestamp_path": "tst",
            "timestamp_format": "unix",
            "retained": "ignore",
            **_TRUSTED,
        },
        "victron": {
            "topic": "N/{device}/{service}/{instance}/{path...}",
            "fields": {"value": "value"},
        },
        "openmqttgateway": {"topic": "home/{gateway}/BTtoMQTT/{device}"},
        "openmqttgateway_433": {"topic": "home/{gateway}/433toMQTT"},
        "openmqttgateway_rtl_433": {"topic": "home/{gateway}/RTL_433toMQTT/{path...}"},
        "theengs": {"topic": "home/TheengsGateway/BTtoMQTT/{device}"},
        "rtl_433": {
            "topic": "rtl_433/{host}/events",
            "timestamp_path": "time",
            "timestamp_format": "iso or unix",
            "timestamp_min": _CLOCK_SET,
        },
        "rtl_433_devices": {
            "topic": "rtl_433/{host}/devices/{path...}",
            "decoder": "text",
            "fields": {"value": "scalar(@)"},
        },
        "ems_esp": {"topic": "ems-esp/{section}", "readings": "[switches(flat(@))]"},
        # What other gateways publish with `publish: {partial: true}`, for windows with `merge: true`.
        "partials": {
            "topic": "gateway/{source}/aggregates/{window}/{key...}",
            "readings": "[@][?partial].{partial: to_string(partial), source: source, revision: revision, "
            "kind: kind, count: count, quality: to_string(quality), unit: to_string([unit])}",
            "timestamp_path": "start_ms",
            "timestamp_format": "unix_ms",
            "timestamp": "trusted",
        },
        "dsmr_reader": {
            "topic": "dsmr/json",
            "timestamp_path": "timestamp || read_at",
            "timestamp_min": _CLOCK_SET,
        },
        "dsmr_reader_values": {
            "topic": "dsmr/reading/{quantity}",
            "decoder": "text",
            "fields": {"value": "scalar(@)"},
        },
        # Retained, without a time: what comes again on each subscription may be of any age.
        "evcc": {
            "topic": "evcc/{path...}",
            "decoder": "text",
            "fields": {"value": "scalar(@)"},
            "retained": "ignore",
        },
        "frigate": {
            "topic": "frigate/{camera}/{object}",
            "decoder": "text",
            "fields": {"value": "scalar(@)"},
            "retained": "ignore",
        },
        # The server writes down what it polled, with whether the value is good and when it was read.
        "kepware": {
            "topic": "iotgateway/{path...}",
            "readings": "values",
            "fields": {"id": "id", "value": "v"},
            "where": "q == true",
            "timestamp_path": "t || timestamp",
            "timestamp_format": "unix_ms or iso",
            **_TRUSTED,
        },
        "neuron": {
            "topic": "neuron/{path...}",
            # A tag that could not be read is one without a value: a miss.
            "readings": "inherit(tags || [items(values || `{}`)[].{name: key, value: value}, "
            "items(errors || `{}`)[].{name: key}][], {node: node, group: group})",
            "fields": {"node": "node", "group": "group", "name": "name", "value": "value"},
            "timestamp_path": "timestamp",
            "timestamp_format": "unix_ms",
            **_TRUSTED,
        },
        # A pack holds what was saved up, down to records of 2010 and before: no earliest time.
        "senml": {
            "topic": "channels/{channel}/messages",
            "decoder": "senml",
            "timestamp": "trusted",
            "timestamp_max": "5m",
        },
        "sparkplug": {
            "topic": "spBv1.0/{group}/{type}/{node}/{device}",
            "decoder": "sparkplug_b",
            "timestamp_min": _CLOCK_SET,
        },
        "sparkplug_node": {
            "topic": "spBv1.0/{group}/{type}/{node}",
            "decoder": "sparkplug_b",
            "timestamp_min": _CLOCK_SET,
        },
    }
)

TYPICAL_FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tasmota": (
            *("sensor", "Temperature", "Humidity", "DewPoint", "Pressure", "Illuminance", "CarbonDioxide"),
            *("Power", "Voltage", "Current", "Total", "Today", "Yesterday", "Factor", "ApparentPower"),
            *("ReactivePower", "Frequency", "Id", "Distance", "Moisture", "Battery", "LinkQuality"),
        ),
        "tasmota_state": ("Uptime", "UptimeSec", "Heap", "POWER", "Vcc", "RSSI", "Signal", "LoadAvg"),
        "zigbee2mqtt": (
            *("temperature", "humidity", "pressure", "battery", "linkquality", "contact", "occupancy"),
            *("illuminance", "power", "energy", "voltage", "current", "state", "action", "water_leak"),
        ),
        "shelly_gen2": ("component", "apower", "voltage", "current", "energy", "temperature", "output", "tC"),
        "esphome": ("value",),
        "chirpstack": ("rssi", "snr", "f_cnt", "temperature", "humidity", "battery"),
        "ttn": ("rssi", "snr", "f_cnt", "temperature", "humidity", "battery"),
    }
)
"""Fields that messages of a preset usually have, to find out what a misspelt one means."""

SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tasmota": ("tasmota", "tasmota_state"),
        "shelly_gen1": (
            *("shelly_gen1", "shelly_gen1_power", "shelly_gen1_energy"),
            *("shelly_gen1_sensor", "shelly_gen1_info"),
        ),
        "shelly_gen2": ("shelly_gen2", "shelly_gen2_status"),
        "shelly_gen3": ("shelly_gen3", "shelly_gen3_status"),
        "shelly_gen4": ("shelly_gen4", "shelly_gen4_status"),
        "openmqttgateway": ("openmqttgateway", "openmqttgateway_433", "openmqttgateway_rtl_433"),
        "rtl_433": ("rtl_433", "rtl_433_devices"),
        "dsmr_reader": ("dsmr_reader", "dsmr_reader_values"),
        "esphome": ("esphome", "esphome_binary"),
        "sparkplug": ("sparkplug", "sparkplug_node"),
    }
)
"""Presets that stand for several routes; the first of each is the one of the same name."""

# What is about one shape of messages is set for the first route of a set; the rest holds for all of them.
_OF_ONE_SHAPE = frozenset(
    {
        *("name", "topic", "decoder", "payload", "csv", "fields", "readings", "where"),
        *("timestamp_path", "timestamp_format"),
    }
)

_OF_ITEMS = frozenset({"readings", "where"})


def with_preset(entry: object) -> object:
    """An entry of `routes` with what its preset says filled in: name, topic, and what it leaves open.

    Raises ValidationError at `preset` when there is none of that name.
    """
    if not isinstance(entry, dict) or "preset" not in entry:
        return entry
    preset = entry["preset"]
    if preset is None:
        return {key: value for key, value in entry.items() if key != "preset"}
    if not isinstance(preset, str) or preset not in PRESETS:
        raise _unknown(preset)
    route = {"name": preset, **PRESETS[preset], **entry}
    if "fields" in entry and "readings" not in entry:
        # Custom fields are looked up in the whole message, where no condition on an item holds.
        route = {key: value for key, value in route.items() if key in entry or key not in _OF_ITEMS}
    return route


def further_routes(entry: Settings) -> list[dict[str, object]]:
    """The other routes that an entry stands for, after the first: none where the entry has its own `topic`,
    because only the first is known to be there. `entry` has what stands in the file."""
    preset = entry.get("preset")
    if "topic" in entry or not isinstance(preset, str):
        return []
    name = str(entry.get("name", preset))
    shared = {key: value for key, value in entry.items() if key not in _OF_ONE_SHAPE and key != "preset"}
    return [
        {"name": name + further.removeprefix(preset), **PRESETS[further], **shared}
        for further in SETS.get(preset, ())[1:]
    ]


def missing_extra_of(preset: str) -> str | None:
    """Return the extra of this package that a preset needs and that is not installed."""
    return missing_extra(str(PRESETS.get(preset, {}).get("decoder", "json")))


def _unknown(preset: object) -> ValidationError:
    near = difflib.get_close_matches(str(preset), PRESETS, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else f"; there is {', '.join(PRESETS)}"
    error = PydanticCustomError("config", "{text}", {"text": f"there is no preset {preset}{hint}"})
    return ValidationError.from_exception_data(
        "Route", [InitErrorDetails(type=error, loc=("preset",), input=preset)]
    )
