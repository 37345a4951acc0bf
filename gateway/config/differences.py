"""Names of the keys that a new configuration changes; never their values, which may be secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.config.models import Config

_ABSENT = object()


def changed_keys(before: Config, after: Config) -> list[str]:
    """Return what differs: `local.keepalive`, `windows.minute.window.size`, in the order of the file."""
    return [*_differences(before.model_dump(), after.model_dump(), "")]


def _differences(before: object, after: object, name: str) -> Iterator[str]:
    if before == after:
        return
    old, new = _members(before), _members(after)
    if not old or not new:
        yield name
        return
    for key in {**old, **new}:
        yield from _differences(
            old.get(key, _ABSENT), new.get(key, _ABSENT), f"{name}.{key}" if name else str(key)
        )


def _members(value: object) -> Mapping[str, object]:
    """The keys of a section; of a list of windows or routes, their names."""
    if isinstance(value, dict):
        return value
    if isinstance(value, tuple | list) and value and all(isinstance(each, dict) for each in value):
        return {str(each.get("name") or position): each for position, each in enumerate(value)}
    return {}
