"""`compute` and `where`: expressions in CEL (https://cel.dev) in which every number is a double.

What makes the time of one evaluation bounded: the text has a bounded length, and loops over lists (`all`,
`exists`, `map`, `filter`) are refused, so that each part is evaluated once at most. Why this library, and
what it costs: docs/decisions/cel.md.
"""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

from gateway.core.errors import ConfigError

MAX_CHARS = 2_000
MAX_NESTING = 50

MISS = None
"""The value of an expression that names something absent, or does not fit its data."""

Scope = Mapping[str, Any]

_TOKEN = re.compile(
    r"""
    (?P<text>[rRbB]{0,2}(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
    | (?P<name>[A-Za-z_]\w*)
    | (?P<hex>0[xX][0-9A-Fa-f]+)[uU]?
    | (?P<double>\d*\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)
    | (?P<whole>\d+)[uU]?
    """,
    re.VERBOSE,
)
_LOOP = re.compile(r"\.\s*(all|exists|exists_one|existsOne|filter|map)\s*\(")


def _double_of(function: Callable[..., Any]) -> Callable[..., float]:
    return lambda *arguments: float(function(*arguments))


def _round(number: float, digits: float = 0.0) -> float:
    """Half away from zero, as people round, and CEL's math.round."""
    factor = 10.0**digits
    whole = math.floor(abs(number) * factor + 0.5)
    return math.copysign(whole, number) / float(factor)


FUNCTIONS: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        "abs": _double_of(abs),
        "min": _double_of(min),
        "max": _double_of(max),
        "round": _double_of(_round),
        "floor": _double_of(math.floor),
        "ceil": _double_of(math.ceil),
        "sqrt": _double_of(math.sqrt),
        "exp": _double_of(math.exp),
        "log": _double_of(math.log),
        "log10": _double_of(math.log10),
        "pow": _double_of(math.pow),
        # CEL's own give whole numbers, which cannot be added to a double.
        "whole_": _double_of(lambda value: math.trunc(float(value))),
        "size_": _double_of(len),
    }
)
_OURS_FOR = {"int": "whole_", "uint": "whole_", "size": "size_"}
_BUILT_IN = frozenset({"double", "string", "bool", "startsWith", "endsWith", "contains", "matches", "type"})


# The library warns of every message on which a function fails: such messages are counted as misses here.
logging.getLogger("cel").setLevel(logging.ERROR)


def _load_cel() -> ModuleType:
    """Import CEL without its interactive shell, which takes 24 MiB and most of the time."""
    sys.modules.setdefault("cel.cli", ModuleType("cel.cli"))
    import cel  # noqa: PLC0415 - a route that computes nothing does not pay for it

    return cel


class Formula:
    """A compiled expression. Raises ConfigError when it is not CEL or calls an unknown function.

    For one thread at a time.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARS or text.count("(") > MAX_NESTING:
            raise ConfigError(
                "the expression is too long",
                hint=f"at most {MAX_CHARS} characters and {MAX_NESTING} brackets",
            )
        if _LOOP.search(text):
            raise ConfigError("loops over lists are not allowed here", hint="write the terms one by one")
        cel = _load_cel()
        try:
            self._program = cel.compile(_with_doubles(text))
        except ValueError as exc:
            raise ConfigError(
                f"{text!r} is not a CEL expression", hint=_first_line(exc) or "see https://cel.dev"
            ) from exc
        self.names = frozenset(self._program.variables())
        """Names of the variables that it uses."""
        called = {name for name in self._program.functions() if name[0].isalpha()}
        unknown = sorted(called - FUNCTIONS.keys() - _BUILT_IN)
        if unknown:
            known = ", ".join(name for name in FUNCTIONS if not name.endswith("_"))
            raise ConfigError(f"CEL has no function {unknown[0]}() here", hint=f"there is {known}")
        self._scopes: tuple[Scope, ...] = ()
        self._context = cel.Context(None, {name: FUNCTIONS[name] for name in called & FUNCTIONS.keys()})
        self._context.set_variable_resolver(self._look_up)

    def __call__(self, *scopes: Scope) -> object:
        """Its value with the names of the first of `scopes` that has them, or MISS. Never raises."""
        self._scopes = scopes
        try:
            return self._program.execute(self._context)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - also the library's panics, which are no Exception
            return MISS

    def _look_up(self, name: str) -> object:
        for scope in self._scopes:
            value = scope.get(name)
            if value is not None:
                return float(value) if type(value) is int else value
        return None


def _with_doubles(text: str) -> str:
    return _TOKEN.sub(_double, text)


def _double(match: re.Match[str]) -> str:
    if match["whole"]:
        return f"{match['whole']}.0"
    if match["hex"]:
        return f"{int(match['hex'], 16)}.0"
    return _OURS_FOR.get(match["name"] or "", match[0])


def _first_line(exc: Exception) -> str:
    said = re.search(r"ERROR: <input>:\d+:(\d+): (.*)", str(exc))
    return f"at character {said[1]}: {said[2]}" if said else ""
