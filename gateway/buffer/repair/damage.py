"""The note that a running gateway leaves beside its buffer when it finds the file damaged.

The next start reads it, and then checks the whole file, however large it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from gateway.core.errors import DamageError
from gateway.host.files import replace_file

# SQLError: the statement that made a table is damaged, and a column is not found. Not IOError: what the disk
# does not give now it may give later.
_DAMAGES = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, UnicodeDecodeError)


def note_damage(path: Path, problem: str) -> None:
    """Leave word that the buffer `path` is damaged. Raises OSError.

    A running gateway looks for the note at any time, so it is there with its reason or not at all; on a full
    disk an empty one still tells the next start to look at the whole file.
    """
    note = _note(path)
    new = note.with_name(note.name + ".new")
    try:
        new.write_text(problem)
        replace_file(new, note)
    except OSError:
        new.unlink(missing_ok=True)
        note.touch()
        raise


@contextmanager
def using(path: Path) -> Iterator[None]:
    """Note damage that is found while the buffer `path` is used for the first time.

    Raises DamageError then: the next start mends it.
    """
    try:
        yield
    except Exception as exc:
        if not isinstance(getattr(exc, "orig", exc), _DAMAGES):  # peewee keeps the driver's error there
            raise
        problem = str(exc) or type(exc).__name__
        note_damage(path, problem)
        raise DamageError(
            f"the buffer {path} is damaged: {problem}", hint="start again: what is readable is saved then"
        ) from exc


def note_if_damaged(path: Path, error: Exception) -> None:
    """Note that the buffer `path` is damaged, where that is what reading it has raised.

    A gateway that runs on it sees the note within seconds.
    """
    if _is_damage(error):
        with suppress(OSError):
            if not noted_damage(path):
                note_damage(path, str(error))


def _is_damage(error: Exception) -> bool:
    return isinstance(getattr(error, "orig", error), (apsw.CorruptError, apsw.NotADBError))


@contextmanager
def looking_into(path: Path) -> Iterator[None]:
    """Note damage for the gateway that is found while a command reads the buffer `path`.

    Raises DamageError then.
    """
    try:
        yield
    except Exception as exc:
        note_if_damaged(path, exc)
        if not _is_damage(exc):
            raise
        raise DamageError(
            f"the buffer {path} is damaged: {exc}",
            hint="the next start of the gateway saves what is readable",
        ) from exc


def noted_damage(path: Path) -> str:
    """Return the recorded damage; empty when there is none."""
    note = _note(path)
    return note.read_text(errors="replace") or "no reason given" if note.exists() else ""


def forget_damage(path: Path) -> None:
    """The file was looked through, and mended where it had to be."""
    _note(path).unlink(missing_ok=True)


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")
