"""A real file system loses its power: it is shut down under the working storage, and mounted again (P1).

The shutdown is the file system's own ioctl, which drops whatever its journal does not hold yet. It needs root
and a loop device.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shift import Synchronous
from tests.support.shift_worker import Broker, Worker, check

MIB = 1024 * 1024
# XFS makes nothing smaller than 300 MiB; the file has holes.
SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB}
_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
_WITHOUT_FLUSHING_THE_LOG = 2

log = logging.getLogger(__name__)


class LoopDisk:
    """A file system in a file. Raises CalledProcessError where it cannot be made or mounted."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._image, self.mounted_at = folder / "disk.img", folder / "mounted"
        self.mounted_at.mkdir()
        with self._image.open("wb") as file:
            file.truncate(SIZES[kind])
        run(f"mkfs.{kind}", "-q", str(self._image))
        self.mount()

    def mount(self) -> None:
        run("mount", "-o", "loop", str(self._image), str(self.mounted_at))

    def unmount(self) -> None:
        run("umount", str(self.mounted_at))

    def lose_power(self) -> None:
        """From here on no write of any process reaches it."""
        descriptor = os.open(self.mounted_at, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_LOG))
        finally:
            os.close(descriptor)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.fixture(params=SIZES)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoopDisk]:
    kind = request.param
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"there is no mkfs.{kind} here")
    try:
        disk = LoopDisk(tmp_path, kind)
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"no {kind} can be mounted here: {exc.stderr.decode().strip()}")
    yield disk
    disk.unmount()


def power_cuts(disk: LoopDisk, copy: Path, synchronous: Synchronous, cuts: int) -> int:
    """Cut the power again and again; returns how many acknowledged messages were lost."""
    seed = random.SystemRandom().randrange(2**32)
    chance, lost, acknowledged = random.Random(seed), 0, 0
    for number in range(cuts):
        data, broker = disk.mounted_at / f"data-{number}", Broker()
        data.mkdir()
        with Worker(data, synchronous, seed + number, broker) as worker:
            worker.wait_ready()
            time.sleep(chance.uniform(0.1, 0.6))
            broker.lose_power()
            disk.lose_power()
        disk.unmount()
        disk.mount()
        lost += len(check(data, copy, broker, synchronous))
        acknowledged += broker.acknowledged
        shutil.rmtree(data)
    log.warning(
        "seed %d, %s: %d cuts lost %d of %d acknowledged messages",
        *(seed, synchronous, cuts, lost, acknowledged),
    )
    assert acknowledged > 0
    return lost


@pytest.mark.parametrize("cuts", [pytest.param(3, id="short"), pytest.param(50, marks=pytest.mark.slow)])
def test_a_file_system_that_loses_its_power_loses_no_acknowledged_message(
    disk: LoopDisk, tmp_path: Path, cuts: int
) -> None:
    assert power_cuts(disk, tmp_path / "copy", "full", cuts) == 0


def test_with_synchronous_normal_the_same_power_cuts_lose_some(disk: LoopDisk, tmp_path: Path) -> None:
    """The negative control."""
    assert power_cuts(disk, tmp_path / "copy", "normal", 2) > 0
