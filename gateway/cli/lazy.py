"""Groups of commands whose modules are imported only when they are called."""

from __future__ import annotations

import gc
import importlib
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command


class Listed(NamedTuple):
    """A command as its group lists it: a function, or a Typer app, in a module of `gateway.cli`."""

    module: str
    attribute: str
    summary: str


class LazyGroup(TyperGroup):
    """Lists its commands without importing them. Subclasses say which there are."""

    listed: ClassVar[Mapping[str, Listed]]

    def list_commands(self, ctx: object) -> list[str]:
        return list(self.listed)

    def format_commands(self, ctx: object, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in self.listed.items()])

    def get_command(self, ctx: object, cmd_name: str) -> object:  # type: ignore[override]
        if cmd_name not in self.listed:
            near = get_close_matches(cmd_name, self.listed, n=1)
            if near:
                raise typer.BadParameter(f"there is no command {cmd_name!r}; did you mean {near[0]!r}?")
            return None
        module, attribute, summary = self.listed[cmd_name]
        gc.disable()  # nothing that an import makes is garbage
        try:
            found = getattr(importlib.import_module(f"gateway.cli.{module}"), attribute)
        finally:
            gc.enable()
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command(name=cmd_name)(found)
            found = single
        command = get_command(found)
        command.name, command.short_help = cmd_name, summary
        in_words(command)
        return command


_WORDS_BY_NAME = {
    **dict.fromkeys(("url", "from_url"), "URL"),
    **dict.fromkeys(
        (
            *("listen_for", "wait", "skew", "idle", "max_age", "last", "older_than", "newer_than", "every"),
            *("watch", "timeout"),
        ),
        "DURATION",
    ),
    **dict.fromkeys(("arrival", "from_time", "to_time"), "TIME"),
    **dict.fromkeys(("stream", "streams"), "FILTER"),
    "topic": "TOPIC",
    "topic_filter": "FILTER",
    "outage": "FROM+LENGTH",
    "option": "NAME=VALUE",
    "protocol": "5|3.1.1",
    "event_ids": "ID",
    "plugins": "FOLDER",
    "keep": "FOLDER",
    "work": "FOLDER",
    "timezone": "ZONE",
    **dict.fromkeys(("username", "field", "gateway", "by", "client_id", "share", "window", "plugin"), "NAME"),
}
_WORDS_BY_TYPE = {"int": "NUMBER", "float": "NUMBER", "Path": "FILE", "str": "TEXT"}


def in_words(command: Any) -> None:
    """Name what is typed behind each option of a command in words, such as DURATION, not by its type in
    Python."""
    for parameter in command.params:
        if parameter.metavar is None and not getattr(parameter, "is_flag", False):
            parameter.metavar = _word_of(parameter)
        if parameter.param_type_name == "argument" and hasattr(parameter, "display_type_rich"):
            # Newer versions of Typer put brackets around the word, and the type behind it.
            parameter.metavar = re.sub(r"[\[\]]|\.\.\.", "", parameter.metavar or "") or None
            parameter.display_type_rich = lambda **_: ""
    for inner in getattr(command, "commands", {}).values():
        in_words(inner)


def _word_of(parameter: Any) -> str | None:
    """Return the word for one value; None where the help lists the choices."""
    annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    found = re.search(r"\b(?:int|float|Path|str)\b", getattr(annotation, "__name__", "") or "")
    found = found or re.search(r"\b(?:int|float|Path|str)\b(?=\])", str(annotation))
    if found is None or getattr(annotation, "__members__", None):
        return None
    by_type = _WORDS_BY_TYPE[found[0]]
    is_argument = not str(parameter.opts[0]).startswith("-")
    return _WORDS_BY_NAME.get(parameter.name) or (parameter.name.upper() if is_argument else by_type)
