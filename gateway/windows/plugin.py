"""Contract of a window plugin: Beam's CombineFn with plain JSON accumulators, and a check of it.

A plugin is a stateless object: the engine calls one instance for all keys, from one thread at a time.
What it knows about a window is in the accumulator.
"""

from __future__ import annotations

import copy
import marshal
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import orjson

from gateway.core.errors import PluginError
from gateway.core.events import FieldValue
from gateway.core.events import Reading as Reading  # noqa: PLC0414 - plugins take it from here
from gateway.windows.values import exact_number, number, number_or_text

Accumulator = Any
"""Plain JSON: None, bool, int (64 bits), finite float, str, and lists and dicts (text keys) of them."""

Output = Any
"""Plain JSON. None means that there is nothing to say: the window then emits nothing."""

METHODS = ("create_accumulator", "add_input", "merge_accumulators", "extract_output")


@runtime_checkable
class CombineFn(Protocol):
    """The four methods that every plugin has, as in Apache Beam.

    Optional ones, looked up by name:

    - `setup(options)`: called once before use with the window's `options`, plus `fields`, the names of the
      window's fields; raises ValueError with what to change.
    - `key(reading) -> str`: the key of a reading, where the window has no `key` template.
    - `report(carry, output) -> (carry, output)`: sees what each window of a key gives, on time and in order,
      with what it returned for the window before (None at first). It may change the output, or hold it back
      with None. Early results and corrections of such a plugin are not emitted.
    - `examples() -> list[Reading]`: readings to check the contract with, in time order.
    - attribute `accepts_text = True`: text counts as a reading too; `reading.value` is then NaN and the
      text is in `reading.fields`.
    - attribute `exact_integers = True`: whole numbers of 64 bits come as int, not as float.
    - `extract_between(accumulator, start_ms, end_ms)`: the result of a window that is over, in place of
      `extract_output`, for what depends on the window's bounds.
    - `add_value(accumulator, value, time_ms)`: the same as `add_input` for a plugin that needs no more of a
      reading than its value and its time; it is called instead, because that takes less time.
    - attribute `takes_all_fields = True`: a window with several fields gives it readings that have all of
      them, in `reading.fields`, instead of applying it to each field by itself.
    """

    def create_accumulator(self) -> Accumulator:
        """An accumulator of no readings."""

    def add_input(self, accumulator: Accumulator, reading: Reading) -> Accumulator:
        """The accumulator with one more reading. It may change and return the one that it was given.

        It must not change the reading. Readings come in arrival order, which need not be time order. When
        it raises, the accumulator must be as before.
        """

    def merge_accumulators(self, accumulators: Sequence[Accumulator]) -> Accumulator:
        """Return one accumulator for all readings of several, which come in time order and must not be
        changed."""

    def extract_output(self, accumulator: Accumulator) -> Output:
        """The result. The accumulator must not be changed: it may get more readings later."""


class PerField:
    """A plugin applied to several fields of a window at once; the result maps each field to its own.

    A field that is missing from a sample is left out of that field's accumulator; the window counts a miss
    only for a sample that has none of them.
    """

    def __init__(self, plugin: CombineFn, fields: Sequence[str]) -> None:
        self.accepts_text = bool(getattr(plugin, "accepts_text", False))
        self.exact_integers = bool(getattr(plugin, "exact_integers", False))
        self._plugin = plugin
        self._fields = tuple(fields)
        self._read = value_reader(plugin)
        if hasattr(plugin, "extract_between"):
            self.extract_between = partial(self._extract_between, plugin.extract_between)

    def create_accumulator(self) -> Accumulator:
        return [None] * len(self._fields)

    def add_input(self, accumulator: Accumulator, reading: Reading) -> Accumulator:
        values = [self._read(reading.fields.get(field)) for field in self._fields]
        # Plugins change accumulators in place, so that a field that raises would leave the reading in those
        # before it. marshal keeps infinities, and only who restores pays for reading it.
        before = marshal.dumps(accumulator)
        try:
            for position, value in enumerate(values):
                if value is not None:
                    one = accumulator[position]
                    one = self._plugin.create_accumulator() if one is None else one
                    accumulator[position] = self._plugin.add_input(one, reading._replace(value=value))
        except BaseException:
            accumulator[:] = marshal.loads(before)  # noqa: S302 - dumped above
            raise
        return accumulator

    def merge_accumulators(self, accumulators: Sequence[Accumulator]) -> Accumulator:
        columns = [[one for one in column if one is not None] for column in zip(*accumulators, strict=True)]
        return [self._plugin.merge_accumulators(column) if column else None for column in columns]

    def extract_output(self, accumulator: Accumulator) -> Output:
        return self._results(accumulator, self._plugin.extract_output)

    def _extract_between(
        self, extract: Callable[..., Output], accumulator: Accumulator, start_ms: int, end_ms: int
    ) -> Output:
        return self._results(accumulator, lambda one: extract(one, start_ms, end_ms))

    def _results(self, accumulator: Accumulator, extract: Callable[[Accumulator], Output]) -> Output:
        return {
            field: None if one is None else extract(one)
            for field, one in zip(self._fields, accumulator, strict=True)
        }


def value_adder(plugin: object) -> Callable[[Accumulator, float, int], Accumulator] | None:
    """Return the plugin's `add_value`, unless it has none, or a subclass has changed `add_input` only."""
    for owner in type(plugin).__mro__:
        if "add_value" in vars(owner):
            return plugin.add_value  # type: ignore[attr-defined, no-any-return] # just seen
        if "add_input" in vars(owner):
            return None
    return None


def value_reader(plugin: object) -> Callable[[FieldValue], float | None]:
    """Return the conversion of values for a plugin: to a number, to text too, or with whole numbers
    unchanged."""
    if getattr(plugin, "accepts_text", False):
        return number_or_text
    return exact_number if getattr(plugin, "exact_integers", False) else number


# --- the contract ---


def check_contract(plugin: object, name: str) -> None:
    """Raise PluginError unless `plugin` (already set up) keeps the contract, on a handful of readings."""
    missing = [method for method in METHODS if not callable(getattr(plugin, method, None))]
    if missing or not isinstance(plugin, CombineFn):
        raise PluginError(f"plugin {name!r} has no {', '.join(missing)}", hint=f"add {' and '.join(missing)}")
    try:
        _check(plugin, name)
    except PluginError:
        raise
    except Exception as exc:  # a plugin is foreign code: whatever it raises is a broken contract
        raise PluginError(
            f"plugin {name!r} failed on sample readings: {type(exc).__name__}: {exc}",
            hint="run `gateway plugin check` on it, or give it examples() with readings that fit",
        ) from exc


def _check(plugin: CombineFn, name: str) -> None:
    readings = _examples(plugin)
    before = copy.deepcopy(readings)
    folded = _fold(plugin, name, readings)
    if readings != before:
        raise PluginError(f"plugin {name!r}: add_input changes the reading", hint="copy what you keep")
    _check_pure(plugin.extract_output, folded, f"plugin {name!r}: extract_output")
    expected = plugin.extract_output(folded)
    _check_json(expected, f"plugin {name!r}: the output")
    _check_add_value(plugin, name, readings, folded)
    _check_report(plugin, name, expected)
    for parts in _partitions(readings):
        accumulators = [_fold(plugin, name, part) for part in parts]
        _check_pure(plugin.merge_accumulators, accumulators, f"plugin {name!r}: merge_accumulators")
        merged = plugin.merge_accumulators(accumulators)
        _check_json(merged, f"plugin {name!r}: the merged accumulator")
        if not alike(plugin.extract_output(merged), expected):
            raise PluginError(
                f"plugin {name!r}: merging gives {plugin.extract_output(merged)!r}, adding {expected!r}",
                hint="merge_accumulators must give what add_input gives for the same readings in time order",
            )


def _check_add_value(plugin: CombineFn, name: str, readings: Sequence[Reading], folded: Accumulator) -> None:
    add = value_adder(plugin)
    if add is None:
        return
    accumulator = plugin.create_accumulator()
    for reading in readings:
        accumulator = add(accumulator, reading.value, reading.time_ms)
    if not alike(plugin.extract_output(accumulator), plugin.extract_output(folded)):
        raise PluginError(
            f"plugin {name!r}: add_value gives another result than add_input for the same readings",
            hint="let add_input call add_value, or leave add_value out",
        )


def _check_report(plugin: CombineFn, name: str, output: Output) -> None:
    report: Any = getattr(plugin, "report", None)
    carry = None
    for _ in range(0 if report is None or output is None else 2):
        carry, reported = report(carry, copy.deepcopy(output))
        _check_json(carry, f"plugin {name!r}: what report carries on")
        _check_json(reported, f"plugin {name!r}: the reported output")


def _examples(plugin: object) -> list[Reading]:
    give = getattr(plugin, "examples", None)
    if callable(give):
        return list(give())
    values = (20.0, 21.5, 21.5, -3.25, 0.0, 1e6, 22.0, 19.75, 20.5)
    return [Reading(value, 1_000 * n, {"value": value}, "a/b") for n, value in enumerate(values)]


def _partitions(readings: list[Reading]) -> list[list[list[Reading]]]:
    third = max(1, len(readings) // 3)
    return [
        [readings],
        [[], readings],
        [readings[:1], readings[1:]],
        [readings[:third], readings[third : 2 * third], readings[2 * third :], []],
    ]


def _fold(plugin: CombineFn, name: str, readings: list[Reading]) -> Accumulator:
    accumulator = plugin.create_accumulator()
    for reading in readings:
        _check_json(accumulator, f"plugin {name!r}: the accumulator")
        accumulator = plugin.add_input(orjson.loads(orjson.dumps(accumulator)), reading)
    return accumulator


def _check_json(value: object, what: str) -> None:
    try:
        same = orjson.loads(orjson.dumps(value)) == value
    except (TypeError, ValueError):  # orjson's errors are these
        same = False
    if not same:
        raise PluginError(
            f"{what} {value!r} does not survive JSON",
            hint="use None, bool, int, finite float, str, and lists and dicts with text keys",
        )


def _check_pure(method: Any, argument: object, what: str) -> None:
    before = copy.deepcopy(argument)
    method(argument)
    if argument != before:
        raise PluginError(f"{what} changes what it is given", hint="build a new accumulator instead")


def alike(left: object, right: object) -> bool:
    """Equal, but for rounding: floats may differ by a part in a thousand million."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(alike(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(alike, left, right))
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9)
    return left == right
