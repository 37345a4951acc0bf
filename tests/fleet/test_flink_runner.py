"""`gateway fleet run --runner flink` gives what the local runner gives."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fleet.test_common_windows import TEN_MINUTES
from tests.fleet.test_fleet_run import fleet_run, lines_of, results, shuffled, write
from tests.support.fleets import SHARED, WINDOWS, fleet_config, received
from tests.support.flink_cluster import PATIENCE_S, FlinkCluster
from tests.support.gateways import wait_until

pyflink = pytest.importorskip(
    "pyflink", reason="needs apache-flink and Java, which are no dependencies of the tests"
)
EVENTS = 20_000  # of each gateway: the job must still run when the kill comes

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


def test_a_task_manager_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    """The job runs on a cluster; the task manager that works for it is killed while it does."""
    config = fleet_config(tmp_path, [*WINDOWS, SHARED])
    events = [line for number in range(4) for line in received(f"g{number}", 7, EVENTS, number)]
    path = write(tmp_path / "in.ndjson", shuffled(events))
    assert fleet_run(config, path).returncode == 0
    expected = sorted(results(config))
    (folder := tmp_path / "cluster").mkdir()
    with FlinkCluster(Path(pyflink.__file__).parent, folder) as cluster:
        for name in ("one", "two"):
            cluster.start_task_manager(name)
        with ThreadPoolExecutor(1) as pool:
            more = ["--runner", "flink", "--engine-option=execution.checkpointing.interval=1s"]
            running = pool.submit(fleet_run, config, path, more=[*more, *cluster.options])
            wait_until(lambda: running.done() or cluster.records_written() > 0, "the job", PATIENCE_S)
            assert not running.done(), running.result()
            killed = cluster.worker()
            cluster.kill(killed)
            done = running.result()
        assert done.returncode == 0, done.stderr
        assert cluster.failures(), "the kill hit nothing"
    assert killed in ("one", "two")
    assert json.loads(done.stdout)["complete"]
    assert sorted(results(config)) == expected
