"""What this process may use of the machine, and what it uses."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def memory_limit_bytes(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """The smallest limit of the control groups (version 2) around this process, or the machine's memory."""
    limits = [psutil.virtual_memory().total]
    for group in _groups(cgroups, own_cgroup):
        try:
            text = (group / "memory.max").read_text("ascii").strip()
        except OSError:
            continue  # the root group has no such file, other systems have no control groups
        if text.isdigit():  # else it is "max": no limit here
            limits.append(int(text))
    return min(limits)


def _groups(cgroups: Path, own_cgroup: Path) -> list[Path]:
    """The folder of this process's control group and all around it."""
    try:
        lines = own_cgroup.read_text("utf-8").splitlines()
    except OSError:
        return []
    own = next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), None)
    if own is None:
        return []
    group = cgroups / own
    return [group, *(parent for parent in group.parents if parent.is_relative_to(cgroups))]


class ProcessLoad:
    """CPU and memory, asked about once a second or so."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.cpu()  # the first answer is always 0

    def cpu(self) -> float:
        """The busier of the whole machine and of the one core that Python has, from 0 to 1, since the last
        call."""
        return max(psutil.cpu_percent(), min(100.0, self._process.cpu_percent())) / 100

    def memory_bytes(self) -> int:
        """What is resident."""
        return int(self._process.memory_info().rss)
