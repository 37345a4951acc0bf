"""Finds decoders by name in a folder of plugins, among those that ship, and in installed packages.

A decoder is a class with `decode(payload)`, which gives what JSON could hold: a dict, a list, a text, a
number. In a file `NAME.py` it is called `Decoder`; in a package it is what an entry point NAME of the group
`gateway.decoders` names. How its documents are read where the route does not say, it may state itself:
`fields`, `readings`, `timestamp_path`, `timestamp_format`. Each route gets an object of its own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.core.errors import ConfigError, DecodeError, PluginError
from gateway.core.expressions import compile_expression
from gateway.core.timestamps import check_format
from gateway.decode.decoders import DECODER_NAMES, Decoder
from gateway.decode.decoders.plain import check_size
from gateway.pipeline.plugins_loader import (
    Load,
    find_payload_plugins,
    load_file,
    summary_of,
)

GROUP = "gateway.decoders"
CLASS = "Decoder"
_TRIALS = 200
_TRIAL_BYTES = 64


@dataclass(frozen=True, slots=True)
class FoundDecoder:
    """A decoder that has been found but not yet run."""

    name: str
    origin: str
    summary: str
    load: Load

    def decoder(self) -> Decoder:
        """A new one, for a route. Raises PluginError when it cannot be used."""
        return as_decoder(self.load(), f"{self.name} ({self.origin})")


def find_decoders(directory: Path | None = None) -> dict[str, FoundDecoder]:
    """Return all decoder plugins by name. One in `directory` hides one that ships, which hides one in a
    package.

    None can hide a decoder of the gateway's own.
    """
    found = find_payload_plugins(GROUP, CLASS, directory, FoundDecoder)
    return {name: found[name] for name in sorted(found.keys() - {*DECODER_NAMES})}


def decoder_file(path: Path) -> FoundDecoder:
    """The decoder of one file, named after it. Raises PluginError when it cannot be read."""
    try:
        source = path.read_bytes()
    except OSError as exc:
        raise PluginError(f"{path}: {exc.strerror}", hint="check its name and rights") from exc
    return FoundDecoder(path.stem, str(path), summary_of(source), partial(load_file, path, CLASS))


def as_decoder(plugin: object, origin: str) -> Decoder:
    """Wrap an object with `decode` as a decoder for routes. Raises PluginError."""
    decode = getattr(plugin, "decode", None)
    if not callable(decode):
        raise PluginError(f"{origin} has no method decode(payload)", hint="see docs/plugins.md")
    fields = getattr(plugin, "fields", None) or {}
    readings = getattr(plugin, "readings", None)
    path = getattr(plugin, "timestamp_path", None)
    layout = getattr(plugin, "timestamp_format", None) or "iso"
    try:
        for text in (*_texts(fields), *(each for each in (readings, path) if each is not None)):
            compile_expression(text)
        check_format(layout)
    except (ConfigError, TypeError, AttributeError) as exc:
        raise PluginError(f"{origin}: {exc}", hint="see docs/plugins.md") from exc

    def parse(payload: bytes, _arrival_ms: int = 0) -> object:
        check_size(payload)
        try:
            return decode(payload)
        except DecodeError:
            raise
        except Exception as exc:  # a plugin is foreign code: whatever it raises, this payload is not read
            raise DecodeError(f"{origin}: {type(exc).__name__}: {exc}", reason="plugin") from exc

    is_text = bool(getattr(plugin, "is_text", False))
    return Decoder(parse, dict(fields), readings, path, layout, is_text=is_text)


def _texts(fields: object) -> tuple[str, ...]:
    return tuple(fields.values()) if isinstance(fields, Mapping) else ()


def try_out(decoder: Decoder, seed: int = 0) -> int:
    """Give it random payloads; returns how many it read. Raises PluginError when a document is none."""
    chance = random.Random(seed)
    read = 0
    for _ in range(_TRIALS):
        try:
            document = decoder.parse(chance.randbytes(chance.randint(1, _TRIAL_BYTES)), 0)
        except DecodeError:
            continue
        read += 1
        if not isinstance(document, (dict, list, str, int, float, bool, type(None))):
            raise PluginError(
                f"decode gave a {type(document).__name__}",
                hint="give a dict, a list, a text, a number or None",
            )
    return read
