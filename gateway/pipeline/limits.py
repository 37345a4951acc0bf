"""Finds the limit of a `threshold` window that fits its values, and what each limit costs in alarms.

The values are those that the windows of each key give, as the plugin judges them. Each limit is tried with
the plugin itself over all of them, with the configured `for`, `repeat` and distance of `clear`, so the number
of alarms is the one that a run with this limit would have.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from gateway.core.numbers import is_number
from gateway.windows.engine import WindowEngine

WITHIN = 0.999
"""Share of the values that the recommended limit lets pass."""
_POINTS = 24  # of a curve
_REPORTS = 4_000_000  # of the plugin for a curve: some seconds
_DIGITS = 3


class Limits:
    """The values of one window by key, and the limits that they suggest, once all are observed. `side` is
    `above` or `below`."""

    def __init__(self, plugin: Any, options: Mapping[str, Any], side: str) -> None:
        self.side = side
        self.configured = float(options[side])
        self._plugin = plugin
        self._options = options
        self._outputs: defaultdict[str, list[Any]] = defaultdict(list)

    def observe(self, key: str, output: Any) -> None:
        """Note what a window gave."""
        if isinstance(output, dict) and _is_finite(output.get("value")):
            self._outputs[key].append(output)

    @property
    def values(self) -> int:
        """Number of values."""
        return sum(map(len, self._outputs.values()))

    @cached_property
    def recommended(self) -> float:
        """Nearest limit of three digits that lets WITHIN of the values pass."""
        found = self._sorted
        return self._rounded(found[max(0, math.ceil(WITHIN * len(found)) - 1)])

    def cost(self, limit: float) -> dict[str, float]:
        """Return the alarms that a limit raises, and the windows that they last."""
        alarms = lasting = 0
        plugin = self._with(limit)
        for outputs in self._outputs.values():
            carry, is_on = None, False
            for output in outputs:
                carry, told = plugin.report(carry, output)
                if told is not None and not told.get("repeated"):
                    is_on = told["alert"] == "raised"
                    alarms += is_on
                lasting += is_on
        return {"limit": limit, "alarms": alarms, "windows_in_alarm": lasting}

    @cached_property
    def curve(self) -> list[dict[str, float]]:
        """The cost of limits from the middle of the values to the outermost, the usual ones first."""
        found = self._sorted
        points = max(2, min(_POINTS, _REPORTS // max(1, len(found))))
        middle = len(found) // 2
        chosen = {found[middle + at * (len(found) - 1 - middle) // points] for at in range(points + 1)}
        limits = {self._rounded(value) for value in chosen} | {self.configured, self.recommended}
        return [self.cost(limit) for limit in sorted(limits, reverse=self.side == "below")]

    def fields(self) -> dict[str, object]:
        """Return the recommendation as plain values, for JSON."""
        return {
            "option": self.side,
            "configured": self.configured,
            "recommended": self.recommended,
            "values": self.values,
            "curve": self.curve,
        }

    @cached_property
    def _sorted(self) -> list[float]:
        """All values, from those that are furthest on the good side."""
        every = (output["value"] for outputs in self._outputs.values() for output in outputs)
        return sorted(every, reverse=self.side == "below")

    def _rounded(self, value: float) -> float:
        """Round away from the values that pass."""
        if not value:
            return 0.0
        unit = 10.0 ** (math.floor(math.log10(abs(value))) - _DIGITS + 1)
        steps = (math.ceil if self.side == "above" else math.floor)(value / unit)
        return float(f"{steps * unit:.{_DIGITS}g}")

    def _with(self, limit: float) -> Any:
        options = {**self._options, self.side: limit}
        if options.get("clear") is not None:
            options["clear"] = limit + options["clear"] - self.configured
        plugin = type(self._plugin)()
        plugin.setup(options)
        return plugin


def watch_limits(engine: WindowEngine) -> dict[str, Limits]:
    """Observe the values of all windows of an engine that have a limit; by window."""
    found = {}
    for name, operator in engine.operators.items():
        options = {**operator.spec.options, "fields": list(operator.spec.fields)}
        sides = [side for side in ("above", "below") if _is_finite(options.get(side))]
        plugin = operator.border.plugin
        if len(sides) == 1 and operator.spec.plugin == "threshold" and hasattr(plugin, "report"):
            found[name] = Limits(plugin, options, sides[0])
            operator.border.observe_outputs(found[name].observe)
    return found


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)
