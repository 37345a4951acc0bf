"""Windows as Home Assistant shows them, with the units of their routes' fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.wire.home_assistant import Shown, ShownWindow
from gateway.wire.home_assistant_classes import SENSOR_CLASSES

if TYPE_CHECKING:
    from gateway.config.models import Config
    from gateway.config.window_model import ShownAs, Window

_SPELLINGS = {"C": "°C", "F": "°F", "m3": "m³", "ft3": "ft³", "m2": "m²", "ug/m3": "µg/m³", "uS/cm": "µS/cm"}
"""Units as people write them, and as Home Assistant does."""
_OF_ITS_OWN = frozenset({"count", "sum_squares", "slope", "rate"})  # numbers without the field's unit


def shown_windows(config: Config) -> dict[str, ShownWindow]:
    """Return the windows that are shown, by name."""
    found = {}
    for window, spec in zip(config.windows, config.window_specs(), strict=True):
        how = window.publish.home_assistant
        if how is not None:
            found[window.name] = _shown_window(window, how, spec.units)
    return found


def _shown_window(window: Window, how: ShownAs, units: Mapping[str, str]) -> ShownWindow:
    def of_field(name: str) -> Shown:
        shown = how.fields_[name].shown() if name in how.fields_ else Shown(how.value)
        return _with_unit(shown, units.get(name))

    names = window.field_names
    per_field = {name: of_field(name) for name in names} if len(names) > 1 else {}
    computed = {name: of_field(name) if name in how.fields_ else Shown() for name in window.compute}
    shown = _with_unit(how.shown(), units.get(names[0]))
    return ShownWindow(shown, per_field, computed, window.plugin, how.expire_after_s)


def _with_unit(shown: Shown, unit: str | None) -> Shown:
    """Add the unit of the field, where Home Assistant takes it."""
    if shown.unit is not None or not unit or shown.value.rpartition(".")[2] in _OF_ITS_OWN:
        return shown
    known = SENSOR_CLASSES.get(shown.device_class or "")
    if known is None or not known.units or unit in known.units:
        return replace(shown, unit=unit)
    spelled = _SPELLINGS.get(unit, unit)
    return replace(shown, unit=spelled) if spelled in known.units else shown
