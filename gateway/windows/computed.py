"""Computed results of a window: formulas over the results of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.decode.formulas import Formula
from gateway.windows.counters import Counters
from gateway.windows.values import number


class Computed:
    """Adds the values of formulas to results that are objects.

    A formula names fields and what their results have (`temperature.mean`); where a window has one field,
    also what its result has (`mean`). One that cannot be computed gives null and is counted.
    """

    def __init__(self, formulas: Mapping[str, str], fields: tuple[str, ...], counters: Counters) -> None:
        self._formulas = {name: Formula(text) for name, text in formulas.items()}
        self._only_field = fields[0] if len(fields) == 1 else None
        self._counters = counters

    def add_to(self, output: Any) -> Any:
        """The output with a member for each formula."""
        if not isinstance(output, dict):
            return output
        scope: dict[str, Any] = _with_doubles(output)
        if self._only_field is not None:
            scope = {self._only_field: scope, **scope}
        found: dict[str, float | None] = {}
        for name, formula in self._formulas.items():
            found[name] = scope[name] = number(formula(scope))  # type: ignore[arg-type]  # a formula may give anything
            self._counters.compute_misses += found[name] is None
        return {**output, **found}


def _with_doubles(value: Any) -> Any:
    """CEL does not mix whole numbers and others."""
    if isinstance(value, dict):
        return {name: _with_doubles(one) for name, one in value.items()}
    return float(value) if type(value) is int else value
