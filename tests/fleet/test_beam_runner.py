"""`gateway fleet run --runner beam` gives what the local runner gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fleet.test_common_windows import TEN_MINUTES
from tests.fleet.test_fleet_run import fleet_run, lines_of, results, shuffled, write
from tests.support.fleets import SHARED, WINDOWS, fleet_config

pytest.importorskip("apache_beam", reason="needs apache-beam, which is no dependency of the tests")
pytestmark = pytest.mark.filterwarnings("ignore")  # Beam's own imports warn about themselves


def test_beam_gives_what_the_workers_of_this_machine_give(tmp_path: Path) -> None:
    config, known = fleet_config(tmp_path, [*WINDOWS, SHARED, TEN_MINUTES]), lines_of()
    every = shuffled(line for lines in known.values() for line in lines)
    inputs = [write(tmp_path / f"{n}.ndjson", every[n::2]) for n in range(2)]
    other = write(tmp_path / "other.ndjson", [b"hello\n", every[0][:50]])
    told, given = [], []
    for more in ([], ["--runner", "beam"]):
        done = fleet_run(config, *inputs, other, more=more)
        assert done.returncode == 1, done.stderr
        told.append({**json.loads(done.stdout), "seconds": 0})
        given.append(sorted(results(config)))
    assert given[0] == given[1]
    assert told[0] == told[1]
