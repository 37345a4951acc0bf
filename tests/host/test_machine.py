"""The memory that there is: of the machine, or of the control group around the process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gateway.flow.memory import MIB, memory_budget
from gateway.host.machine import ProcessLoad, cpu_limit, memory_limit_bytes

VERSION_1 = "5:cpu,cpuacct:/x\n4:memory:/a/b\n"


def groups(folder: Path, limits: dict[str, str], own: str = "0::/a/b\n") -> tuple[Path, Path]:
    for name, limit in limits.items():
        file = folder / name / ("memory.limit_in_bytes" if own == VERSION_1 else "memory.max")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    (folder / "cgroup").write_text(own)
    return folder, folder / "cgroup"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"a/b": "134217728"}, 128 * MIB),
        ({"a/b": "max", "a": "67108864"}, 64 * MIB),
        ({"a/b": "67108864", "a": "134217728"}, 64 * MIB),
        ({"a/b": "max"}, None),
        ({}, None),
    ],
)
def test_the_smallest_limit_around_the_process_counts(
    tmp_path: Path, limits: dict[str, str], expected: int | None
) -> None:
    found = memory_limit_bytes(*groups(tmp_path, limits))
    assert found == (expected or psutil.virtual_memory().total)


def test_control_groups_of_version_1_count_too(tmp_path: Path) -> None:
    no_limit = str(0x7FFFFFFFFFFFF000)
    limits = {"memory/a/b": "134217728", "memory": no_limit}
    assert memory_limit_bytes(*groups(tmp_path, limits, VERSION_1)) == 128 * MIB


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({"a/b/cpu.max": "50000 100000"}, "0::/a/b\n", 0.5),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "25000 100000"}, "0::/a/b\n", 0.25),
        ({"cpu/x/cpu.cfs_quota_us": "20000", "cpu/x/cpu.cfs_period_us": "100000"}, VERSION_1, 0.2),
        ({"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, VERSION_1, None),
    ],
)
def test_a_quota_of_processor_time_is_seen(
    tmp_path: Path, files: dict[str, str], own: str, expected: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "cgroup").write_text(own)
    assert cpu_limit(tmp_path, tmp_path / "cgroup") == (expected or psutil.cpu_count())


def test_without_control_groups_it_is_the_memory_of_the_machine(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path / "no", tmp_path / "none") == psutil.virtual_memory().total


def test_a_process_knows_what_it_uses() -> None:
    load = ProcessLoad()
    assert 0 <= load.cpu() <= 1
    assert 10 * MIB < load.memory_bytes() < psutil.virtual_memory().total


@pytest.mark.parametrize("total_mib", [128, 512, 1024, 8192])
def test_the_budget_shares_out_what_is_not_reserved(total_mib: int) -> None:
    budget = memory_budget(total_mib * MIB)
    shared = total_mib * MIB - min(512, total_mib / 2) * MIB
    parts = (budget.ingest_bytes, budget.windows_bytes, budget.cache_bytes, budget.processing_bytes)
    assert [part / shared for part in parts] == pytest.approx([0.1, 0.4, 0.2, 0.2], rel=0.001)


def test_the_names_of_all_keys_fit_into_the_share_of_the_windows() -> None:
    small, large = memory_budget(128 * MIB), memory_budget(8192 * MIB)
    assert small.most_keys(1) * 256 <= small.windows_bytes
    assert small.most_keys(1) > 100_000
    assert large.most_keys(3) > 4_000_000


def test_what_other_programs_use_is_not_the_load_of_this_one() -> None:
    spin = [sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1)]
    try:
        load = ProcessLoad()
        time.sleep(0.5)
        assert load.cpu() < 0.5
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
