"""The last configuration with which the gateway ran, kept in its data directory.

The first line names the file that it is a copy of, so that no other gateway takes it up.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from gateway.host.files import read_regular, write_whole

LAST_GOOD_FILE = "last-good.yaml"
_HEAD = "# The last good configuration of "


def keep_last_good(data_dir: Path, config: Path, text: str, most_bytes: int) -> None:
    """Write the text with which the gateway runs. Raises OSError."""
    path, whole = data_dir / LAST_GOOD_FILE, f"{_HEAD}{config.absolute()}\n{text}".encode()
    with contextlib.suppress(OSError):
        if read_regular(path, most_bytes) == whole:
            return  # spare the flash
    write_whole(path, whole, mode=0o600)


def last_good(data_dir: Path, config: Path, most_bytes: int) -> str | None:
    """Return the text that was kept for the file `config`; None where there is none."""
    try:
        head, _, text = read_regular(data_dir / LAST_GOOD_FILE, most_bytes).decode().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return text if head == f"{_HEAD}{config.absolute()}" else None
