"""Names of what is measured: which windows they are worth, by the words of many systems."""

from __future__ import annotations

import re
from typing import NamedTuple


class Quantity(NamedTuple):
    """A kind of measurement: whether it is a counter, and how an alarm on it is set."""

    name: str
    words: str
    counter: bool = False
    alarm_above: bool = False
    alarm_below: float | None = None


_QUANTITIES = (
    Quantity("temperature", r"temp|temperature|tc|temperatur|dewpoint", alarm_above=True),
    Quantity("energy", r"energy|kwh|wh|total|consumption|aenergy|import|export|sum_energy", counter=True),
    Quantity("power", r"power|apower|watt|watts|w|activepower|act_power"),
    Quantity("humidity", r"hum|humidity|rh|feuchte|moisture|soil_moisture"),
    Quantity("co2", r"co2|carbondioxide|eco2"),
    Quantity("pressure", r"pressure|press|baro|barometer"),
    Quantity("level", r"level|fill|distance|depth"),
    Quantity("flow", r"flow|flowrate|flow_rate"),
    Quantity("illuminance", r"illuminance|lux|light|brightness"),
    Quantity("pm", r"pm1|pm25|pm2_5|pm10|voc|tvoc|aqi"),
    Quantity("voltage", r"voltage|volt|volts|v|vcc"),
    Quantity("current", r"current|amps|ampere|a"),
    Quantity("frequency", r"frequency|freq|hz"),
    Quantity("speed", r"speed|rpm|wind_speed|windspeed"),
    Quantity("battery", r"battery|batt|bat|battery_level|battery_percent", alarm_below=15),
    Quantity("value", r"value|val|reading|measurement"),
)


def quantity_of(name: str) -> Quantity | None:
    """Return what a field or a level of that name measures; None where the name does not tell."""
    words = [re.sub(r"\W+", "_", name.lower()), *re.split(r"[^a-z0-9]+", _in_words(name))]
    for word in words:
        for quantity in _QUANTITIES:
            if re.fullmatch(rf"(?:{quantity.words})\d*", word):
                return quantity
    return None


def is_quantity(name: str) -> bool:
    """Return True if the name says what is measured."""
    return quantity_of(name) is not None


def rank(name: str) -> int:
    """Return a number that is the lower, the more people want to see the field on a chart."""
    found = quantity_of(name)
    return len(_QUANTITIES) if found is None else _QUANTITIES.index(found)


def _in_words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
