"""Runs Home Assistant with nothing but MQTT in it, and writes its states and warnings to standard output.

Usage, with the Python of an environment that has `homeassistant`: FOLDER BROKER_PORT HTTP_PORT. One line of
JSON for each change: `{"entity_id": …, "state": …, "attributes": …, "device": …, "via": …}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from homeassistant import bootstrap, runner  # type: ignore[import-not-found]
from homeassistant.config_entries import ConfigEntryState  # type: ignore[import-not-found]
from homeassistant.helpers import device_registry, entity_registry  # type: ignore[import-not-found]

bootstrap.CRITICAL_INTEGRATIONS = frozenset()  # it does without its web page
CONFIG = "homeassistant:\n  name: Test\nhttp:\n  server_host: 127.0.0.1\n  server_port: {port}\n"
LOGGERS = ("homeassistant.components.mqtt", "homeassistant.components.sensor", "homeassistant.helpers")


class Lines(logging.Handler):
    """Warnings of the integration as lines of JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        tell({"log": record.levelname, "name": record.name, "text": record.getMessage()})


def tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


def stored_entry(port: int) -> dict[str, Any]:
    """The connection to the broker, as a person would have set it up."""
    data = {"broker": "127.0.0.1", "port": port, "discovery": True, "discovery_prefix": "homeassistant"}
    versions = {"version": 1, "minor_version": 1}
    unset = {"options": {}, "pref_disable_new_entities": False, "pref_disable_polling": False}
    names = {"entry_id": "mqtt-test", "domain": "mqtt", "title": "broker", "source": "user"}
    entry = {**versions, **names, **unset, "unique_id": None, "disabled_by": None, "data": data}
    return {**versions, "key": "core.config_entries", "data": {"entries": [entry]}}


async def run(folder: Path, broker_port: int, http_port: int) -> None:
    (folder / ".storage").mkdir(parents=True, exist_ok=True)
    (folder / "configuration.yaml").write_text(CONFIG.format(port=http_port))
    stored = folder / ".storage" / "core.config_entries"
    if not stored.exists():
        stored.write_text(json.dumps(stored_entry(broker_port)))
    hass = await bootstrap.async_setup_hass(runner.RuntimeConfig(config_dir=str(folder), skip_pip=True))
    for name in LOGGERS:
        logging.getLogger(name).addHandler(Lines(logging.WARNING))

    def tell_state(entity_id: str, state: Any) -> None:
        devices = device_registry.async_get(hass)
        known = entity_registry.async_get(hass).async_get(entity_id)
        device = devices.async_get(known.device_id) if known and known.device_id else None
        via = devices.async_get(device.via_device_id) if device and device.via_device_id else None
        tell(
            {
                "entity_id": entity_id,
                "state": state.state if state else None,
                "attributes": dict(state.attributes) if state else {},
                "device": device.name if device else None,
                "via": via.name if via else None,
            }
        )

    for state in hass.states.async_all():
        tell_state(state.entity_id, state)
    hass.bus.async_listen(
        "state_changed", lambda event: tell_state(event.data["entity_id"], event.data["new_state"])
    )
    await hass.async_start()
    loaded = [entry.state is ConfigEntryState.LOADED for entry in hass.config_entries.async_entries("mqtt")]
    tell({"started": all(loaded) and bool(loaded)})
    await asyncio.Event().wait()


asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
