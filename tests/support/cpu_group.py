"""A control group that limits the processor time of one process, where the machine lets us make one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.gateways import wait_until

_V1, _V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
PERIOD_US = 100_000


def why_no_cpu_group() -> str:
    """Why no process can be limited here; empty when it can."""
    if os.geteuid() != 0:
        return "only root makes control groups"
    if (_V1 / "cpu.cfs_quota_us").exists() and os.access(_V1, os.W_OK):
        return ""
    subtree = _V2 / "cgroup.subtree_control"
    if subtree.exists() and "cpu" in subtree.read_text().split() and os.access(_V2, os.W_OK):
        return ""
    return "there is no cpu controller that may be written (a container needs a cgroup of its own)"


@contextmanager
def cpu_group(share: float) -> Iterator[tuple[str, ...]]:
    """A group that gets `share` of one core; yields the command that runs another one in it."""
    first = (_V1 / "cpu.cfs_quota_us").exists()
    folder = (_V1 if first else _V2) / f"gateway-test-{os.getpid()}"
    folder.mkdir()
    quota_us = round(share * PERIOD_US)
    try:
        if first:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        yield "sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh"
    finally:
        wait_until(lambda: not (folder / "cgroup.procs").read_text(), "the group's last process")
        folder.rmdir()
