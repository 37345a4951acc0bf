"""Home Assistant's classes of sensors: which units and which kinds of statistics each of them takes.

Those of Home Assistant 2024.3 to 2025.4, and what came later; `tests/local/test_home_assistant_itself.py`
compares them with what is installed. https://www.home-assistant.io/integrations/sensor/ has them.
"""

from __future__ import annotations

from typing import NamedTuple


class SensorClass(NamedTuple):
    """Allowed units (none: any, or none at all) and state classes of a device class."""

    units: tuple[str, ...]
    state_classes: tuple[str, ...]


MEASURED = ("measurement",)
ANGLE = ("measurement", "measurement_angle")
RISING = ("total", "total_increasing")
EITHER = ("measurement", "total", "total_increasing")

SENSOR_CLASSES = {
    "absolute_humidity": SensorClass(("g/m³", "mg/m³"), MEASURED),
    "apparent_power": SensorClass(("VA", "kVA", "mVA"), MEASURED),
    "aqi": SensorClass((), MEASURED),
    "area": SensorClass(("ac", "cm²", "ft²", "ha", "in²", "km²", "m²", "mi²", "mm²", "yd²"), EITHER),
    "atmospheric_pressure": SensorClass(
        ("MPa", "Pa", "bar", "cbar", "hPa", "inHg", "kPa", "mPa", "mbar", "mmHg", "psi"), MEASURED
    ),
    "battery": SensorClass(("%",), MEASURED),
    "blood_glucose_concentration": SensorClass(("mg/dL", "mmol/L"), MEASURED),
    "carbon_dioxide": SensorClass(("ppm",), MEASURED),
    "carbon_monoxide": SensorClass(("mg/m³", "ppm"), MEASURED),
    "conductivity": SensorClass(("S/cm", "mS/cm", "µS/cm"), MEASURED),
    "current": SensorClass(("A", "mA"), MEASURED),
    "data_rate": SensorClass(
        ("B/s", "GB/s", "Gbit/s", "GiB/s", "KiB/s", "MB/s", "Mbit/s", "MiB/s", "bit/s", "kB/s", "kbit/s"),
        MEASURED,
    ),
    "data_size": SensorClass(
        (
            "B",
            "EB",
            "EiB",
            "GB",
            "Gbit",
            "GiB",
            "KiB",
            "MB",
            "Mbit",
            "MiB",
            "PB",
            "PiB",
            "TB",
            "TiB",
            "YB",
            "YiB",
            "ZB",
            "ZiB",
            "bit",
            "kB",
            "kbit",
        ),
        EITHER,
    ),
    "date": SensorClass((), ()),
    "distance": SensorClass(("cm", "ft", "in", "km", "m", "mi", "mm", "nmi", "yd"), EITHER),
    "duration": SensorClass(("d", "h", "min", "ms", "s", "µs", "\u03bcs"), EITHER),
    "energy": SensorClass(
        ("GJ", "GWh", "Gcal", "J", "MJ", "MWh", "Mcal", "TWh", "Wh", "cal", "kJ", "kWh", "kcal", "mWh"),
        RISING,
    ),
    "energy_distance": SensorClass(("Wh/km", "kWh/100km", "km/kWh", "mi/kWh"), MEASURED),
    "energy_storage": SensorClass(
        ("GJ", "GWh", "Gcal", "J", "MJ", "MWh", "Mcal", "TWh", "Wh", "cal", "kJ", "kWh", "kcal", "mWh"),
        MEASURED,
    ),
    "enum": SensorClass((), ()),
    "frequency": SensorClass(("GHz", "Hz", "MHz", "kHz", "mHz"), MEASURED),
    "gas": SensorClass(("CCF", "L", "MCF", "ft³", "m³"), RISING),
    "humidity": SensorClass(("%",), MEASURED),
    "illuminance": SensorClass(("lx",), MEASURED),
    "irradiance": SensorClass(("BTU/(h⋅ft²)", "W/m²"), MEASURED),
    "moisture": SensorClass(("%",), MEASURED),
    "monetary": SensorClass((), ("total",)),
    "nitrogen_dioxide": SensorClass(("µg/m³",), MEASURED),
    "nitrogen_monoxide": SensorClass(("µg/m³",), MEASURED),
    "nitrous_oxide": SensorClass(("µg/m³",), MEASURED),
    "ozone": SensorClass(("µg/m³",), MEASURED),
    "ph": SensorClass((), MEASURED),
    "pm1": SensorClass(("µg/m³",), MEASURED),
    "pm10": SensorClass(("µg/m³",), MEASURED),
    "pm25": SensorClass(("µg/m³",), MEASURED),
    "power": SensorClass(("BTU/h", "GW", "MW", "TW", "W", "kW", "mW"), MEASURED),
    "power_factor": SensorClass(("%",), MEASURED),
    "precipitation": SensorClass(("cm", "in", "mm"), EITHER),
    "precipitation_intensity": SensorClass(("in/d", "in/h", "mm/d", "mm/h"), MEASURED),
    "pressure": SensorClass(
        ("MPa", "Pa", "bar", "cbar", "hPa", "inHg", "inH₂O", "kPa", "mPa", "mbar", "mmHg", "psi"), MEASURED
    ),
    "reactive_energy": SensorClass(("kvarh", "varh"), RISING),
    "reactive_power": SensorClass(("kvar", "mvar", "var"), MEASURED),
    "signal_strength": SensorClass(("dB", "dBm"), MEASURED),
    "sound_pressure": SensorClass(("dB", "dBA"), MEASURED),
    "speed": SensorClass(
        ("Beaufort", "ft/s", "in/d", "in/h", "in/s", "km/h", "kn", "m/s", "mm/d", "mm/h", "mm/s", "mph"),
        MEASURED,
    ),
    "sulphur_dioxide": SensorClass(("µg/m³",), MEASURED),
    "temperature": SensorClass(("K", "°C", "°F"), MEASURED),
    "timestamp": SensorClass((), ()),
    "volatile_organic_compounds": SensorClass(("mg/m³", "µg/m³"), MEASURED),
    "volatile_organic_compounds_parts": SensorClass(("ppb", "ppm"), MEASURED),
    "voltage": SensorClass(("MV", "V", "kV", "mV", "µV"), MEASURED),
    "volume": SensorClass(("CCF", "L", "MCF", "fl. oz.", "ft³", "gal", "mL", "m³"), RISING),
    "volume_flow_rate": SensorClass(
        ("L/h", "L/min", "L/s", "ft³/min", "gal/d", "gal/h", "gal/min", "mL/s", "m³/h", "m³/min", "m³/s"),
        MEASURED,
    ),
    "volume_storage": SensorClass(("CCF", "L", "fl. oz.", "ft³", "gal", "mL", "m³"), MEASURED),
    "water": SensorClass(("CCF", "L", "MCF", "ft³", "gal", "m³"), RISING),
    "weight": SensorClass(("g", "kg", "lb", "mg", "oz", "st", "µg"), EITHER),
    "wind_direction": SensorClass(("°",), ANGLE),
    "wind_speed": SensorClass(("Beaufort", "ft/s", "in/s", "km/h", "kn", "m/s", "mm/s", "mph"), MEASURED),
}
