"""Extraction of a reading and its key from a sample, for one window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.core.events import FieldValue, Reading
from gateway.windows.counters import Counters
from gateway.windows.keys import KeyTemplate
from gateway.windows.plugin import CombineFn, value_reader
from gateway.windows.spec import WindowSpec


class ReadingExtractor:
    """Reads the fields and the key that a window's configuration and its plugin ask for."""

    def __init__(self, spec: WindowSpec, plugin: CombineFn, counters: Counters) -> None:
        self.needs_all_fields = bool(getattr(plugin, "takes_all_fields", False))
        self._fields = spec.read_fields
        self._value = value_reader(plugin)
        self._template = KeyTemplate(spec.key)
        self._plugin_key: Callable[[Reading], Any] | None = None
        if not spec.key:
            self._plugin_key = getattr(plugin, "key", None)
        self._counters = counters

    def read(self, fields: Mapping[str, FieldValue]) -> float | None:
        """The first field that is a number. None when there is none, or for some plugins when one is not."""
        if len(self._fields) == 1:
            return self._value(fields.get(self._fields[0]))
        found = [self._value(fields.get(field)) for field in self._fields]
        if self.needs_all_fields and None in found:
            return None
        return next((value for value in found if value is not None), None)

    @property
    def likeness(self) -> object | None:
        """Equal for windows that read the same out of each sample; None where a plugin makes the keys."""
        if self._plugin_key is not None:
            return None
        return self._fields, self._template.text, self._value, self.needs_all_fields

    def fixed_key(self, levels: Mapping[str, str]) -> str | None:
        """The key of every sample of a topic, or None when that takes the sample."""
        if self._plugin_key is not None or self._template.needs_fields(levels):
            return None
        return self._template.render(levels, {})

    def key_of(self, levels: Mapping[str, str], reading: Reading) -> str | None:
        """The key of a reading; None, and counted, when a part of it is missing."""
        if self._plugin_key is None:
            name = self._template.render(levels, reading.fields)
        else:
            name = self._key_by_plugin(self._plugin_key, reading)
        self._counters.key_misses += name is None
        return name

    def key_if_any(self, levels: Mapping[str, str], reading: Reading) -> str | None:
        """The key of a sample without a number, which counts as no miss of the key."""
        if self._plugin_key is not None:
            return None  # plugins make keys of readings
        return self._template.render(levels, reading.fields)

    def _key_by_plugin(self, make: Callable[[Reading], Any], reading: Reading) -> str | None:
        try:
            return str(make(reading))
        except Exception:  # noqa: BLE001 - foreign code; a reading without a key is a counted miss
            self._counters.plugin_errors += 1
            return None
