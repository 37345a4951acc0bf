"""Groups of commands whose modules are imported only when they are called."""

from __future__ import annotations

import gc
import importlib
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
        return command
