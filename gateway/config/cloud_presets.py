"""Cloud services that people use: `cloud.preset` stands for the keys that are listed here.

What the file says itself comes first. `{host}`, `{username}` and `{client_id}` in a value are filled in from
the file. What only the owner of an account knows is named with the place in the service's console that shows
it. docs/clouds.md has the limits with their sources. Rates are a tenth below them, where status and audit
come on top.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

Keys = Mapping[str, object]

_NO_OWN_TOPICS: Keys = {"audit": "off", "status": "off"}


class CloudPreset(NamedTuple):
    """`keys` as they could stand in a file; `needed`, what the owner has to add, and where it is shown."""

    keys: Keys
    needed: Mapping[str, str]


_CERTIFICATE = "the file that the console offered when the certificate was made"

CLOUD_PRESETS: Mapping[str, CloudPreset] = MappingProxyType(
    {
        "aws_iot_core": CloudPreset(
            {
                "protocol": "5",
                "format": "batch",
                "max_packet_size": "128KiB",
                "messages": "90/s",
                "bandwidth": "450KiB/s",
                "retain": False,
                "session_expiry": "1h",
                "reconnect_min": "1s",
            },
            {
                "url": "mqtts://ENDPOINT:8883; AWS IoT console, Connect, Domain configurations: domain name",
                "client_id": "the name of the thing; AWS IoT console, Manage, All devices, Things",
                "tls.cert_file": _CERTIFICATE,
                "tls.key_file": _CERTIFICATE,
            },
        ),
        "azure_iot_hub": CloudPreset(
            {
                "protocol": "3.1.1",
                "username": "{host}/{client_id}/?api-version=2021-04-12",
                "topics": {
                    "batch": "devices/{client_id}/messages/events/",
                    "event": "devices/{client_id}/messages/events/",
                    **_NO_OWN_TOPICS,
                },
                "backfill": "off",
                "format": "batch",
                "encoding": "json",
                "max_packet_size": "256KiB",
                "messages": "90/s",
                "retain": False,
                "will": False,
                "reconnect_min": "1s",
            },
            {
                "url": "mqtts://HUB.azure-devices.net:8883; Azure portal, the hub, Overview: Hostname",
                "client_id": "the device id; Azure portal, the hub, Devices",
                "password": "{azure_sas: {key_file: FILE}} with the primary key in FILE; Azure portal, the "
                "hub, Devices, the device",
            },
        ),
        "azure_event_grid": CloudPreset(
            {
                "protocol": "5",
                "format": "batch",
                "max_packet_size": "512KiB",
                "messages": "900/s",
                "bandwidth": "900KiB/s",
                "retain": False,
                "session_expiry": "1h",
                "reconnect_min": "1s",
            },
            {
                "url": "mqtts://NAMESPACE…:8883; Azure portal, the namespace, Overview: MQTT hostname",
                "client_id": "any name for the session; one that no other client uses",
                "username": "client authentication name; Azure portal, the namespace, MQTT broker, Clients",
                "tls.cert_file": "the certificate whose thumbprint or name the client has in the portal",
                "tls.key_file": "the key of cert_file",
            },
        ),
        "thingsboard": CloudPreset(
            {
                "protocol": "3.1.1",
                "format": "thingsboard",
                "topics": {"event": "v1/gateway/telemetry", **_NO_OWN_TOPICS},
                "backfill": "off",
                "max_packet_size": "64KiB",
                "retain": False,
                "will": False,
            },
            {
                "url": "mqtts://mqtt.thingsboard.cloud:8883, or mqtt://HOST:1883 of a server of your own",
                "username": "the access token; ThingsBoard, Entities, Devices, the device (with Is gateway), "
                "Manage credentials",
            },
        ),
        "hivemq_cloud": CloudPreset(
            {"protocol": "5", "format": "batch", "reconnect_min": "1s"},
            {
                "url": "mqtts://CLUSTER.s1.eu.hivemq.cloud:8883; HiveMQ console, the cluster, Overview: URL",
                "username": "HiveMQ Cloud console, the cluster, Access Management: a credential",
                "password": "as chosen for that credential (password_file)",
            },
        ),
        "emqx_cloud": CloudPreset(
            {
                "protocol": "5",
                "format": "batch",
                "max_packet_size": "976KiB",
                "messages": "9/s",
                "reconnect_min": "1s",
            },
            {
                "url": "mqtts://ADDRESS:8883; EMQX console, the deployment, Overview: Address",
                "username": "EMQX console, the deployment, Access Control, Client Authentication",
                "password": "as chosen there (password_file)",
            },
        ),
        "adafruit_io": CloudPreset(
            {
                "url": "mqtts://io.adafruit.com:8883",
                "protocol": "3.1.1",
                "format": "event",
                "envelope": "never",
                "topics": {"event": "{username}/feeds/{stream}", **_NO_OWN_TOPICS},
                "backfill": "off",
                "max_packet_size": "1KiB",
                "messages": "30/min",
                "retain": False,
                "will": False,
                "reconnect_min": "10s",
            },
            {
                "username": "Adafruit IO, the yellow key: Username",
                "password": "Adafruit IO, the yellow key: Active Key (password_file)",
            },
        ),
    }
)


def with_cloud_preset(section: dict[str, object]) -> dict[str, object]:
    """Return what `section` of the file stands for: the preset's keys, and over them its own."""
    known = {
        "{host}": _host(section.get("url")),
        "{username}": str(section.get("username", "")),
        "{client_id}": str(section.get("client_id", "")),
    }
    merged = dict(section)
    for name, value in CLOUD_PRESETS[str(section["preset"])].keys.items():
        given = section.get(name)
        if isinstance(value, dict):
            # In a topic `{client_id}` is filled in later, as everywhere.
            topics = {
                key: _filled(topic, {"{username}": known["{username}"]}) for key, topic in value.items()
            }
            merged[name] = {**topics, **given} if isinstance(given, dict) else topics
        elif name not in section:
            merged[name] = _filled(value, known)
    return merged


def _filled(value: object, known: Mapping[str, str]) -> object:
    if isinstance(value, str):
        for name, text in known.items():
            value = value.replace(name, text)
    return value


def lacking(section: Mapping[str, object]) -> Iterator[str]:
    """Yield the keys that the owner must still set, as `key: what it is; where it is shown`."""
    for key, where in CLOUD_PRESETS[str(section["preset"])].needed.items():
        at: object = section
        for step in key.split("."):
            at = at.get(step) if isinstance(at, dict) else None
        if key == "password" and at is None:
            at = section.get("password_file")
        if at in (None, ""):
            yield f"{key}: {where}"


def preset_lines(name: str) -> Iterator[str]:
    """The keys of a preset as they could stand in a file, a line each."""
    for key, value in CLOUD_PRESETS[name].keys.items():
        yield f"{key}: {json.dumps(value)}"


def preset_near(name: object) -> str:
    """Return the message about a preset that does not exist."""
    near = difflib.get_close_matches(str(name), CLOUD_PRESETS, 1, 0.5)
    known = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(CLOUD_PRESETS)}"
    return f"there is no cloud preset {name}; {known}"


def _host(url: object) -> str:
    first = url[0] if isinstance(url, list) and url else url
    return (urlsplit(first).hostname or "") if isinstance(first, str) else ""
