"""Finds window plugins by name: in a folder of plugins, among those that ship, in installed packages.

A plugin is a class with the methods of `gateway.windows.plugin.CombineFn`. In a file `NAME.py` it is called
`Plugin`; in a package it is what an entry point NAME of the group `gateway.plugins` names. Each window gets
an object of its own, so that windows may set the same plugin up differently.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from hashlib import blake2b
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from gateway.core import events
from gateway.core.errors import PluginError
from gateway.windows.plugin import CombineFn, check_contract
from gateway.windows.spec import WindowSpec

sys.modules.setdefault("gateway.events", events)
"""Module from which plugins older than the packages import `Reading`."""

T = TypeVar("T")
Load = Callable[[], object]
"""Gives a new object of a plugin's class."""

GROUP = "gateway.plugins"
CLASS = "Plugin"
FOREIGN_ERRORS = (Exception, SystemExit)
"""Errors that a plugin may raise; one that tries to end the process only ends itself."""


@dataclass(frozen=True, slots=True)
class FoundPlugin:
    """A plugin that has been found but not yet run. `code` changes when its code does."""

    name: str
    origin: str
    summary: str
    code: str
    load: Load
    is_for_payloads: bool = False
    """True if its file holds a decoder or an encoder, and no plugin for windows."""


@dataclass(frozen=True, slots=True)
class WindowPlugins:
    """The plugins of a configuration's windows, set up and checked, and their code, by window name."""

    plugins: dict[str, CombineFn]
    fingerprints: dict[str, str]


def shipped_directory() -> Path:
    """Return the folder of the plugins that ship: inside an installed package, or at the top of a
    checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "shipped_plugins"
    return installed if installed.is_dir() else package.parent / "plugins"


def find_plugins(directory: Path | None = None) -> dict[str, FoundPlugin]:
    """Return all plugins by name. One in `directory` hides one that ships, which hides one in a package."""
    found = {point.name: _in_package(point) for point in entry_points(group=GROUP)}
    for folder in (shipped_directory(), directory):
        found |= {plugin.name: plugin for plugin in _in_folder(folder)}
    return dict(sorted(found.items()))


def find_payload_plugins(
    group: str, class_name: str, directory: Path | None, make: Callable[[str, str, str, Load], T]
) -> dict[str, T]:
    """Return all decoders or encoders by name, made of name, origin, summary and how to load them. They hide
    each other as window plugins do. A file that cannot be read is left to `find_plugins` to name."""
    found = {
        point.name: make(point.name, point.value, "", partial(load_entry, point))
        for point in entry_points(group=group)
    }
    for folder in (shipped_directory(), directory):
        for path in sorted(folder.glob("[!_.]*.py")) if folder is not None and folder.is_dir() else ():
            try:
                source = path.read_bytes()
            except OSError:
                continue
            if class_name in source_classes(source):
                load = partial(load_file, path, class_name)
                found[path.stem] = make(path.stem, str(path), summary_of(source), load)
    return found


def load_plugins(specs: Iterable[WindowSpec], directory: Path | None = None) -> WindowPlugins:
    """Find, set up and check the plugin of each window. Raises PluginError that names window and file."""
    found = find_plugins(directory)
    loaded = WindowPlugins({}, {})
    for spec in specs:
        loaded.plugins[spec.name] = load_window_plugin(spec, found)
        loaded.fingerprints[spec.name] = found[spec.plugin].code
    return loaded


def load_window_plugin(spec: WindowSpec, found: dict[str, FoundPlugin]) -> CombineFn:
    """The plugin of one window, set up and checked. Raises PluginError that names window and file."""
    where = f"window {spec.name!r}"
    if spec.plugin not in found:
        close = get_close_matches(spec.plugin, found, n=1)
        raise PluginError(
            f"{where}: there is no plugin {spec.plugin!r}",
            hint=f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(found)}",
        )
    plugin = found[spec.plugin].load()
    _set_up(plugin, spec, found[spec.plugin])
    if len(spec.fields) > 1 and hasattr(plugin, "report") and not getattr(plugin, "takes_all_fields", False):
        raise PluginError(f"{where}: plugin {spec.plugin!r} takes one field", hint="make a window per field")
    if spec.partial and hasattr(plugin, "report"):
        raise PluginError(
            f"{where}: plugin {spec.plugin!r} compares windows, so parts of them cannot be merged",
            hint="publish the parts of another plugin, such as stats",
        )
    check_contract(plugin, f"{spec.plugin} ({found[spec.plugin].origin})")
    if not isinstance(plugin, CombineFn):  # check_contract has said so already; this is for the types
        raise PluginError(f"plugin {spec.plugin!r} is no CombineFn")
    return plugin


def _set_up(plugin: object, spec: WindowSpec, found: FoundPlugin) -> None:
    setup = getattr(plugin, "setup", None)
    where = f"window {spec.name!r}, plugin {found.name!r} ({found.origin})"
    if setup is None:
        if spec.options:
            raise PluginError(f"{where} takes no options", hint=f"remove {', '.join(spec.options)}")
        return
    try:
        setup({**spec.options, "fields": list(spec.fields)})
    except FOREIGN_ERRORS as exc:  # a plugin is foreign code: whatever it raises, its options are not usable
        raise PluginError(
            f"{where}: {exc or type(exc).__name__}", hint="correct the window's options"
        ) from exc


# --- files ---


def _in_folder(folder: Path | None) -> Iterator[FoundPlugin]:
    if folder is None:
        return
    if not folder.is_dir():
        raise PluginError(f"{folder} is no directory", hint="create it, or correct the plugins directory")
    for path in sorted(folder.glob("[!_.]*.py")):
        plugin = plugin_file(path)
        if not plugin.is_for_payloads:
            yield plugin


def plugin_file(path: Path) -> FoundPlugin:
    """The plugin of one file, named after it. Raises PluginError when it cannot be read."""
    try:
        source = path.read_bytes()
    except OSError as exc:
        raise PluginError(
            f"{path}: {exc.strerror}", hint="check its name and whether it may be read"
        ) from exc
    code = blake2b(source, digest_size=16).hexdigest()
    classes = source_classes(source)
    for_payloads = CLASS not in classes and classes & {"Decoder", "Encoder"}
    return FoundPlugin(
        path.stem, str(path), summary_of(source), code, partial(load_file, path), bool(for_payloads)
    )


def source_classes(source: bytes) -> frozenset[str]:
    """The classes that a file defines, without running it."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return frozenset()
    return frozenset(node.name for node in body if isinstance(node, ast.ClassDef))


def summary_of(source: bytes) -> str:
    """The first line of a file's docstring."""
    try:
        docstring = ast.get_docstring(ast.parse(source)) or ""
    except (SyntaxError, ValueError):
        return "(cannot be parsed)"
    return docstring.partition("\n")[0]


def load_file(path: Path, class_name: str = CLASS) -> object:
    """A new object of a class in a file. Raises PluginError with the file, line and reason."""
    spec = importlib.util.spec_from_file_location(f"gateway_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is no Python file", hint="a plugin's name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up there
    try:
        spec.loader.exec_module(module)
    except FOREIGN_ERRORS as exc:  # a plugin is foreign code: importing it may raise anything
        raise PluginError(
            f"{path}{_line(exc, path)}: {type(exc).__name__}: {_said(exc)}", hint="correct it"
        ) from exc
    kind = getattr(module, class_name, None)
    if not isinstance(kind, type):
        raise PluginError(
            f"{path} has no class {class_name}", hint="`gateway plugin new` writes one to start with"
        )
    return _make(kind, str(path))


def _said(exc: BaseException) -> str:
    return exc.msg if isinstance(exc, SyntaxError) else str(exc)  # its own text repeats the file and the line


def _line(exc: BaseException, path: Path) -> str:
    if isinstance(exc, SyntaxError):
        return f", line {exc.lineno}"
    lines, step = [], exc.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == str(path):
            lines.append(step.tb_lineno)
        step = step.tb_next
    return f", line {lines[-1]}" if lines else ""


def _make(kind: Callable[[], object], origin: str) -> object:
    try:
        return kind()
    except FOREIGN_ERRORS as exc:  # a plugin is foreign code
        raise PluginError(
            f"{origin}: {getattr(kind, '__name__', CLASS)}() failed: {exc}",
            hint="it takes no arguments; use setup",
        ) from exc


# --- packages ---


def _in_package(point: EntryPoint) -> FoundPlugin:
    package = point.dist
    version = "" if package is None else f"{package.name} {package.version}"
    return FoundPlugin(
        point.name, f"{version} ({point.value})", "", f"{version} {point.value}", partial(load_entry, point)
    )


def load_entry(point: EntryPoint) -> object:
    """A new object of what an installed package offers. Raises PluginError."""
    try:
        kind = point.load()
    except FOREIGN_ERRORS as exc:  # a plugin is foreign code: importing it may raise anything
        raise PluginError(f"plugin {point.name!r} from {point.value}: {exc}", hint="reinstall it") from exc
    return _make(kind, point.value)
