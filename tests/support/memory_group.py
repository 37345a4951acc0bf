"""A control group that limits the memory of one process, where the machine lets us make one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.gateways import wait_until

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class MemoryGroup(NamedTuple):
    """`inside` is the command that runs another one in the group."""

    folder: Path
    inside: tuple[str, ...]

    def peak_bytes(self) -> int:
        """The most that was charged, with the cached pages of files."""
        return int(_first(self.folder, "memory.max_usage_in_bytes", "memory.peak"))

    def kills(self) -> int:
        """How many processes were killed for want of memory."""
        words = _first(self.folder, "memory.oom_control", "memory.events").split()
        return int(words[words.index("oom_kill") + 1])


def why_no_memory_group() -> str:
    """Why no process can be limited here; empty when it can."""
    if os.geteuid() != 0:
        return "only root makes control groups"
    if (_V1 / "memory.limit_in_bytes").exists() and os.access(_V1, os.W_OK):
        return ""
    subtree = _V2 / "cgroup.subtree_control"
    if subtree.exists() and "memory" in subtree.read_text() and os.access(_V2, os.W_OK):
        return ""
    return "there is no memory controller that may be written (a container needs a cgroup of its own)"


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """A group of `limit_bytes`, swap included; gone at the end, with whatever still ran in it."""
    first = (_V1 / "memory.limit_in_bytes").exists()
    folder = (_V1 if first else _V2) / f"gateway-test-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit_bytes))
        enter = f'echo $$ > {folder}/cgroup.procs && exec "$@"'
        yield MemoryGroup(folder, ("sh", "-c", enter, "sh"))
    finally:
        wait_until(lambda: not (folder / "cgroup.procs").read_text(), "the group's last process")
        folder.rmdir()


def _first(folder: Path, *names: str) -> str:
    return next((folder / name).read_text() for name in names if (folder / name).exists())
