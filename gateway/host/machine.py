"""Resources of the machine: what this process may use, and what it uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def boot_id(file: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """A name for the time since the machine was booted; where there is none, for that of this process."""
    return _read(file).strip() or str(uuid4())


def memory_limit_bytes(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """The smallest limit of the control groups (version 1 or 2) around this process, or the machine's
    memory."""
    limits = [psutil.virtual_memory().total]
    for group in _groups("memory", cgroups, own_cgroup):
        # Without a limit it is "max" in version 2, and a number beyond all memory in version 1.
        for text in (_read(group / "memory.max"), _read(group / "memory.limit_in_bytes")):
            if text.isdigit():
                limits.append(int(text))
    return min(limits)


def cpu_limit(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> float:
    """Return the number of processors that the control groups allow this process, or that the machine has."""
    limits = [float(psutil.cpu_count() or 1)]
    for group in _groups("cpu", cgroups, own_cgroup):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        quota, period = (
            quota or _read(group / "cpu.cfs_quota_us"),
            period or _read(group / "cpu.cfs_period_us"),
        )
        if quota.isdigit() and period.isdigit():
            limits.append(int(quota) / int(period))
    return min(limits)


def _groups(controller: str, cgroups: Path, own_cgroup: Path) -> Iterator[Path]:
    """The folder of this process's control group for `controller`, and those of all groups around it."""
    for line in _read(own_cgroup).splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers == "":  # version 2 has one hierarchy for all
            root = cgroups
        elif controller in controllers.split(","):
            root = cgroups / controller
        else:
            continue
        group = root / own.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _read(file: Path) -> str:
    """Its text; empty when there is no such file: other systems have no control groups."""
    try:
        return file.read_text("ascii").strip()
    except OSError:
        return ""


class ProcessLoad:
    """CPU and memory, asked about once a second or so."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        # One core is what Python has, unless a control group allows even less.
        self._own_limit = min(1.0, cpu_limit())
        self.cpu()  # the first answer is always 0

    def cpu(self) -> float:
        """Return the share of its processor limit that this process used since the last call, from 0 to 1.
        The load of other processes does not count: where they leave too little, queues fill up."""
        return min(1.0, self._process.cpu_percent() / self._own_limit / 100)

    def memory_bytes(self) -> int:
        """Return the resident memory in bytes."""
        return int(self._process.memory_info().rss)
