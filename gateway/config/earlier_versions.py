"""Released versions: which keys, presets and plugins each knows, and which version its buffer has.

`versions/` holds a file for each: its JSON Schema without texts, the names of its presets and plugins. So a
configuration can be judged for a version that is not installed, before going back to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import orjson

from gateway.config.document import Path, Problem

_FOLDER = FilePath(__file__).with_name("versions")


@dataclass(frozen=True)
class EarlierVersion:
    """A released version of the gateway."""

    name: str
    buffer_schema: int
    presets: frozenset[str]
    plugins: frozenset[str]
    schema: Mapping[str, Any]

    def problems(self, data: object, own_plugins: frozenset[str]) -> Iterator[Problem]:
        """Yield what this version does not know of a sound file. `own_plugins` are the operator's."""
        yield from self._walk(data, self.schema, ())
        sections = data if isinstance(data, Mapping) else {}
        known = {"preset": self.presets, "plugin": self.plugins | own_plugins}
        for section, name in (("routes", "preset"), ("windows", "plugin")):
            for position, entry in enumerate(sections.get(section) or ()):
                value = entry.get(name) if isinstance(entry, Mapping) else None
                if value is not None and value not in known[name]:
                    yield Problem((section, position, name), f"version {self.name} has no {name} {value}")

    def _walk(self, data: object, schema: Mapping[str, Any], path: Path) -> Iterator[Problem]:
        schema = self._resolved(schema)
        choices = schema.get("anyOf") or schema.get("oneOf")
        if choices:
            found = [[*self._walk(data, one, path)] for one in choices if self._fits(data, one)]
            yield from min(found, key=len, default=[])
            return
        if isinstance(data, Mapping):
            yield from self._of_mapping(data, schema, path)
        elif isinstance(data, list):
            for position, item in enumerate(data):
                yield from self._walk(item, schema.get("items", {}), (*path, position))
        elif isinstance(data, str) and data not in schema.get("enum", (data,)):
            yield Problem(path, f"version {self.name} does not know {data}")

    def _of_mapping(
        self, data: Mapping[Any, object], schema: Mapping[str, Any], path: Path
    ) -> Iterator[Problem]:
        properties = schema.get("properties", {})
        for key, value in data.items():
            if key in properties:
                yield from self._walk(value, properties[key], (*path, key))
            elif schema.get("additionalProperties", True) is False:
                yield Problem((*path, key), f"version {self.name} does not have this key")

    def _fits(self, data: object, schema: Mapping[str, Any]) -> bool:
        """Return True if a value of this kind may be meant by that branch."""
        schema = self._resolved(schema)
        if "anyOf" in schema or "oneOf" in schema:
            return any(map(partial(self._fits, data), schema.get("anyOf") or schema["oneOf"]))
        if isinstance(data, Mapping):
            return "properties" in schema or schema.get("type") == "object"
        if isinstance(data, list):
            return schema.get("type") == "array"
        return "properties" not in schema and schema.get("type") not in ("array", "object")

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            schema = self.schema["$defs"][schema["$ref"].rpartition("/")[2]]
        return schema


def version_names() -> list[str]:
    """Return the names of the released versions that are known here."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def earlier_version(name: str) -> EarlierVersion | None:
    """Return a released version; None where none of that name is known."""
    if name not in version_names():
        return None
    found = orjson.loads((_FOLDER / f"{name}.json").read_bytes())
    return EarlierVersion(
        name,
        found["buffer_schema"],
        frozenset(found["presets"]),
        frozenset(found["plugins"]),
        found["schema"],
    )
