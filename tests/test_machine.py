"""The memory that there is: of the machine, or of the control group around the process."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from gateway.flow.memory import MIB, memory_budget
from gateway.machine import ProcessLoad, memory_limit_bytes


def groups(folder: Path, limits: dict[str, str], own: str = "0::/a/b\n") -> tuple[Path, Path]:
    for name, limit in limits.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "memory.max").write_text(f"{limit}\n")
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
