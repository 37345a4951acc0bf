"""Finds encoders by name in a folder of plugins, among those that ship, and in installed packages.

An encoder is a class with `encode(events, topics)`: see `gateway.wire.encoder`. In a file `NAME.py` it is
called `Encoder`; in a package it is what an entry point NAME of the group `gateway.encoders` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from gateway.core.errors import PluginError
from gateway.core.events import WireEvent
from gateway.core.own_topics import OwnTopics
from gateway.core.topics import check_topic
from gateway.pipeline.plugins_loader import (
    Load,
    find_payload_plugins,
    load_file,
    source_classes,
    summary_of,
)
from gateway.wire.encoder import ENCODER_NAMES, Encoder, checked
from gateway.wire.uplink_topics import UplinkTopics

GROUP = "gateway.encoders"
CLASS = "Encoder"
_OWN = ("batch", "event", *ENCODER_NAMES)


@dataclass(frozen=True, slots=True)
class FoundEncoder:
    """An encoder that has been found but not yet run."""

    name: str
    origin: str
    summary: str
    load: Load

    def encoder(self) -> Encoder:
        """Return a new one, for a connection. Raises PluginError when it cannot be used."""
        made = self.load()
        if not callable(getattr(made, "encode", None)):
            raise PluginError(
                f"{self.name} ({self.origin}) has no method encode(events, topics)",
                hint="see docs/plugins.md",
            )
        return cast("Encoder", made)


def find_encoders(directory: Path | None = None) -> dict[str, FoundEncoder]:
    """Return all encoder plugins by name. One in `directory` hides one that ships, which hides one in a
    package. None can hide a format of the gateway's own."""
    found = find_payload_plugins(GROUP, CLASS, directory, FoundEncoder)
    return {name: found[name] for name in sorted(found.keys() - {*_OWN})}


def encoder_file(path: Path) -> FoundEncoder | None:
    """Return the encoder of one file, named after it; None where the file defines none."""
    try:
        source = path.read_bytes()
    except OSError:
        return None  # `gateway.pipeline.plugins_loader` names files that cannot be read
    if CLASS not in source_classes(source):
        return None
    return FoundEncoder(path.stem, str(path), summary_of(source), partial(load_file, path, CLASS))


def try_encoder(encoder: Encoder) -> int:
    """Give it some events; return the number of messages. Raises PluginError for what breaks the contract."""
    events = [
        WireEvent(bytes([at] * 16), f"plant/d{at % 3}", at, at, at, None, 2, 0, 0, b'{"value": %d}' % at)
        for at in range(10)
    ]
    topics = UplinkTopics(OwnTopics("gateway", "check"), routes=("plant/{device}",))
    try:
        messages = checked(encoder.encode(events, topics), len(events))
        for message in messages:
            check_topic(message.topic)
    except Exception as exc:  # a plugin is foreign code: it may raise anything
        raise PluginError(f"encode: {type(exc).__name__}: {exc}", hint="see docs/plugins.md") from exc
    return len(messages)
