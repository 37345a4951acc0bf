"""`gateway fleet run --runner flink` gives what the local runner gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fleet.test_common_windows import TEN_MINUTES
from tests.fleet.test_fleet_run import fleet_run, lines_of, results, shuffled, write
from tests.support.fleets import SHARED, WINDOWS, fleet_config

pytest.importorskip("pyflink", reason="needs apache-flink and Java, which are no dependencies of the tests")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_flink_gives_what_the_workers_of_this_machine_give(tmp_path: Path) -> None:
    config, known = fleet_config(tmp_path, [*WINDOWS, SHARED, TEN_MINUTES]), lines_of()
    path = write(tmp_path / "in.ndjson", shuffled(line for lines in known.values() for line in lines))
    told, given = [], []
    for more in ([], ["--runner", "flink"]):
        done = fleet_run(config, path, more=more)
        assert done.returncode == 0, done.stderr
        told.append({**json.loads(done.stdout), "seconds": 0})
        given.append(sorted(results(config)))
    assert given[0] == given[1]
    assert told[0] == told[1]
