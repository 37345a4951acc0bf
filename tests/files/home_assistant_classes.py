"""Writes the units and state classes that an installed Home Assistant allows, by device class, as JSON."""

from __future__ import annotations

import json
import sys

from homeassistant.components.sensor import const  # type: ignore[import-not-found]

allowed = {
    one.value: {
        "units": [str(unit) for unit in const.DEVICE_CLASS_UNITS.get(one, ()) if unit is not None],
        "state_classes": [state.value for state in const.DEVICE_CLASS_STATE_CLASSES.get(one, ())],
    }
    for one in const.SensorDeviceClass
}
sys.stdout.write(json.dumps(allowed))
