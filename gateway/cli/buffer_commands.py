"""The group `gateway buffer`: commands that look into a buffer, and commands that change it."""

from __future__ import annotations

import os
from typing import ClassVar

import typer

from gateway.cli.lazy import LazyGroup, Listed
from gateway.host.files import PRIVATE


class _BufferCommands(LazyGroup):
    listed: ClassVar = {
        "stats": Listed("buffer", "stats", "Count messages and events by outcome, and show the drain."),
        "audit": Listed("buffer", "audit_command", "Prove that every message and event is accounted for."),
        "list": Listed("buffer", "list_command", "List events, the oldest first, without payloads."),
        "show": Listed("buffer", "show", "Print one event in full, as JSON."),
        "export": Listed("buffer", "export", "Write events as JSON lines."),
        "verify": Listed("buffer", "verify", "Check the checksum of every event."),
        "backup": Listed("buffer_backup", "backup", "Copy the buffer while the gateway runs."),
        "restore": Listed("buffer_changes", "restore", "Put a backup in the place of the buffer."),
        "retry": Listed("buffer_changes", "retry", "Send failed events again."),
        "drop": Listed("buffer_changes", "drop", "Remove failed, corrupt or pending events for good."),
        "forward": Listed("buffer_changes", "forward", "Send events that were kept at the edge."),
        "compact": Listed("buffer_changes", "compact", "Give free space in the file back to the disk."),
        "adopt": Listed("buffer_changes", "adopt", "Take over the buffer of another gateway.id."),
    }


app = typer.Typer(
    cls=_BufferCommands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Inspect and change the buffer of a running or stopped gateway.",
)


@app.callback()
def keep_private() -> None:
    """Make what these commands write readable by its owner only, as the buffer is."""
    os.umask(PRIVATE)
