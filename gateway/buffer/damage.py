"""The note that a running gateway leaves beside its buffer when it finds the file damaged.

The next start reads it, and then checks the whole file, however large it is.
"""

from __future__ import annotations

from pathlib import Path

from gateway.files import sync_folder


def note_damage(path: Path, problem: str) -> None:
    """Leave word that the buffer `path` is damaged. Raises OSError."""
    _note(path).write_text(problem)
    sync_folder(path.parent)


def noted_damage(path: Path) -> str:
    """What was noted; empty when nothing was."""
    note = _note(path)
    return note.read_text(errors="replace") or "no reason given" if note.exists() else ""


def forget_damage(path: Path) -> None:
    """The file was looked through, and mended where it had to be."""
    _note(path).unlink(missing_ok=True)


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")
