"""Loading of a configuration file: returns a Config, or reports every problem of the file at once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gateway.config.backfill_model import backfill_problems
from gateway.config.checks import Parts, cross_check
from gateway.config.document import MAX_FILE_BYTES, Document, Problem, read_document
from gateway.config.downlink_model import downlink_problems
from gateway.config.encoder_model import format_problems
from gateway.config.models import Config
from gateway.config.problems import describe, from_pydantic
from gateway.config.remote_model import remote_problems
from gateway.config.route_model import RouteModel
from gateway.config.service_models import Plugins
from gateway.config.topics_model import topics_problems
from gateway.config.window_model import Window
from gateway.core.errors import ConfigError, ConfigFileError, plain_reason
from gateway.host.files import read_regular

Model = TypeVar("Model", bound=BaseModel)


_DATA_DIR = re.compile(r"\bdata_dir:\s*([^,}#\n]+)")

Inspect = Callable[[Config], Iterable[Problem]]
"""A further check of a configuration that is sound in itself, such as one that runs foreign code."""


def load_config(
    path: Path | str, environ: Mapping[str, str] = os.environ, inspect: Inspect | None = None
) -> Config:
    """Read and check the configuration file at `path`; relative paths in it start from its folder.

    Raises ConfigError with every problem; ConfigFileError, which is one, where the file cannot be read.
    """
    path = Path(path)
    return parse_config(read_config(path), path.parent, path.name, environ, inspect)


def read_config(path: Path) -> str:
    """Return the text of a configuration file. Raises ConfigError; ConfigFileError where it has none."""
    try:
        content = read_regular(path, MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigFileError(
            f"cannot read {path}: {plain_reason(exc)}",
            hint="name the configuration file with -c FILE; `gateway init` writes one",
        ) from exc
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise _refused(path.name, [f"{path.name}:1: not UTF-8 text (byte {exc.start})"]) from exc


def parse_config(
    text: str,
    base_dir: Path | str = ".",
    source_name: str = "config",
    environ: Mapping[str, str] = os.environ,
    inspect: Inspect | None = None,
) -> Config:
    """Check the configuration in `text`. Raises ConfigError with every problem."""
    document = read_document(text, environ)
    found = list(document.problems)
    config = None
    if document.data is not None:
        config, more = _validate(document, _context(document.data, Path(base_dir).absolute()))
        found += _without_echoes(more, document.problems)
    elif not found:
        found.append(Problem((), "the file is empty; it needs at least gateway and routes"))
    if config is not None and not found and inspect is not None:
        found += inspect(config)
    if config is None or found:
        lines = sorted((describe(document, problem, source_name) for problem in found), key=_line_number)
        raise _refused(source_name, lines)
    return config


def data_dir_of(text: str, base_dir: Path, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the data directory that a configuration names, though it may have problems; None if it is
    unknown."""
    data = read_document(text, environ).data
    section = data.get("gateway") if isinstance(data, dict) else None
    named = section.get("data_dir", "data") if isinstance(section, dict) else None
    if named is None:  # no YAML: look for the line itself
        found = _DATA_DIR.search(text)
        named = found[1].strip().strip("'\"") if found else None
    return base_dir.absolute() / Path(named).expanduser() if isinstance(named, str) else None


def _context(data: object, base_dir: Path) -> dict[str, Any]:
    """Return facts that one section needs about another: routes name decoders in the plugins' folder."""
    plugins = data.get("plugins") if isinstance(data, dict) else None
    named = plugins.get("path") if isinstance(plugins, dict) else None
    folder = base_dir / (Path(named).expanduser() if isinstance(named, str) else "plugins")
    return {"base_dir": base_dir, "plugins_dir": folder}


def _validate(document: Document, context: dict[str, Any]) -> tuple[Config | None, list[Problem]]:
    try:
        config = Config.model_validate(document.data, context=context)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=True)
        found = [from_pydantic(error, Config, document) for error in errors]
        return None, found + list(cross_check(_salvage(document.data, context)))
    checks: tuple[Inspect, ...] = (
        downlink_problems,
        topics_problems,
        format_problems,
        backfill_problems,
        remote_problems,
    )
    return config, [*cross_check(Parts.of(config)), *(each for check in checks for each in check(config))]


def _salvage(data: object, context: dict[str, Any]) -> Parts:
    """The routes and windows that are sound, so that one bad value does not hide other problems."""
    sections = data if isinstance(data, dict) else {}
    raw_routes = _items(sections.get("routes"))
    routes = dict(_sound(RouteModel, raw_routes, context))
    windows = dict(_sound(Window, _items(sections.get("windows")), context))
    broken = (raw for position, raw in enumerate(raw_routes) if position not in routes)
    names = frozenset(str(raw.get("name", raw.get("preset"))) for raw in broken if isinstance(raw, dict))
    plugins = _sound(Plugins, [sections.get("plugins", {})], context)
    return Parts(routes, windows, plugins[0][1] if plugins else None, names)


def _items(section: object) -> list[object]:
    return section if isinstance(section, list) else []


def _sound(model: type[Model], items: list[object], context: dict[str, Any]) -> list[tuple[int, Model]]:
    sound = []
    for position, item in enumerate(items):
        try:
            sound.append((position, model.model_validate(item, context=context)))
        except ValidationError:
            continue  # its own problems are told by the validation of the whole
    return sound


def _without_echoes(problems: list[Problem], first: list[Problem]) -> list[Problem]:
    """`problems` without those of values that could not even be read."""
    known = {problem.path for problem in first}
    return [problem for problem in problems if problem.path not in known]


def _line_number(line: str) -> int:
    return int(line.split(": ", 1)[0].rsplit(":", 1)[1])


def _refused(source_name: str, lines: list[str]) -> ConfigError:
    noun = "problem" if len(lines) == 1 else "problems"
    return ConfigError(
        f"{source_name} has {len(lines)} {noun}", tuple(lines), hint="see docs/configuration.md"
    )
