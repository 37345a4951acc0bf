"""Tools for tests of plugins and of code around the gateway: readings, a contract check, a clock set by
hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gateway.core.events import FieldValue, Reading
from gateway.pipeline.plugins_loader import load_file
from gateway.windows.plugin import Accumulator, CombineFn, Output, check_contract


class ManualClock:
    """A `gateway.core.clock.Clock` that stands still until it is moved."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms
        self._monotonic_s = 0.0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, ms: int) -> None:
        """Let time pass, on both clocks."""
        self._now_ms += ms
        self._monotonic_s += ms / 1000

    def jump(self, ms: int) -> None:
        """Set the wall clock forward or back; the monotonic one does not notice."""
        self._now_ms += ms


def reading(value: float, time_ms: int = 0, *, topic: str = "test", **fields: FieldValue) -> Reading:
    """A reading as a window gives it to its plugin; `value` is also the field `value`."""
    return Reading(value, time_ms, {"value": value, **fields}, topic)


def set_up(
    path: Path, options: Mapping[str, object] | None = None, fields: Sequence[str] = ("value",)
) -> CombineFn:
    """The plugin of a file, set up with a window's options and checked.

    Raises PluginError where it breaks the contract, and whatever its setup raises.
    """
    plugin = load_file(path)
    setup = getattr(plugin, "setup", None)
    if setup is not None:
        setup({**(options or {}), "fields": list(fields)})
    return check_plugin(plugin, path.stem)


def check_plugin(plugin: object, name: str = "plugin") -> CombineFn:
    """Raise PluginError unless a plugin (already set up) keeps the contract; give it back."""
    check_contract(plugin, name)
    assert isinstance(plugin, CombineFn)  # noqa: S101 - what check_contract has just made sure of
    return plugin


def fold(plugin: CombineFn, readings: Iterable[Reading]) -> Accumulator:
    """The accumulator of some readings."""
    accumulator = plugin.create_accumulator()
    for one in readings:
        accumulator = plugin.add_input(accumulator, one)
    return accumulator


def result_of(plugin: CombineFn, readings: Iterable[Reading]) -> Output:
    """Return the output of a window with these readings."""
    return plugin.extract_output(fold(plugin, readings))
